//! What must not compile. The texts are those of the toolchain that the workspace pins.

#[test]
fn what_is_guarded_cannot_be_had_otherwise() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
