//! The conformance kits: against plain git, against memory, and against sources that are broken on purpose.

mod permission;
mod source;
