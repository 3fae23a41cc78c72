//! A script that was put together at run time is no literal one.

use ci_core::External;
use ci_core::job::Script;

fn main() {
    let branch = External::new("main; id");
    let _script = Script::literal(&format!("git checkout {branch}"));
    let text = String::from("id");
    let _script = Script::literal(&text);
}
