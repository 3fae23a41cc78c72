//! Text from outside becomes no script.

use ci_core::External;
use ci_core::job::{Arg, Script};

fn main() {
    let branch = External::new("main; id");
    let _ = Script::literal(branch.clone());
    let _ = Script::authored(branch.clone());
    let _ = Script::authored(branch.clone().into());
    let _ = Arg::new(branch.clone());
    let _: &str = branch.as_ref();
    let _ = branch.as_data();
}
