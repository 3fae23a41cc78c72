//! Only the authority makes grants and levels.

use std::marker::PhantomData;
use std::sync::Arc;

use ci_core::access::{Access, Covers, Grant, Level, Read, Scope, Write};
use ci_core::id::RepositoryId;

struct Everything;

impl Access for Everything {
    const LEVEL: Level = Level::None;
}

impl Covers<Write> for Read {}

fn grant() -> Grant<Read> {
    Grant(Arc::new(()), PhantomData)
}

fn scope(repository: &RepositoryId) -> Scope<'_> {
    Scope::new(repository)
}

fn main() {}
