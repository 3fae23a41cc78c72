//! A grant becomes no higher one.

use ci_core::access::{Admin, Grant, Read, Write};

fn to_write(grant: Grant<Read>) -> Grant<Write> {
    grant.lower()
}

fn to_admin(grant: Grant<Write>) -> Grant<Admin> {
    grant.lower::<Admin>()
}

fn as_admin(grant: Grant<Write>) -> Grant<Admin> {
    grant
}

fn main() {}
