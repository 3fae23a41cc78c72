//! Compiles the programs that the crate embeds: `init/`, which makes a sandbox and lives in it, and `attack/`, with which
//! the conformance kit tries to get out of one.
//!
//! They are no dependencies of the crate but programs of their own: static, without the standard library, made by the
//! compiler that makes the crate. Nothing else is needed but the linker, which every crate needs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=init");
    println!("cargo::rerun-if-changed=attack");
    println!("cargo::rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    for (feature, program) in [("NATIVE", "init"), ("CONFORMANCE", "attack")] {
        if env::var_os(format!("CARGO_FEATURE_{feature}")).is_some() {
            compile(program, &feature.to_lowercase());
        }
    }
}

fn compile(name: &str, feature: &str) {
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    assert!(
        matches!(architecture.as_str(), "x86_64" | "aarch64"),
        "what runs in a sandbox is written for x86_64 and aarch64, not for {architecture}; \
         build ci-sandbox without its feature `{feature}`"
    );
    let program = PathBuf::from(variable("OUT_DIR")).join(name);
    let mut compiler = Command::new(variable("RUSTC"));
    compiler.args(["--edition=2024", "--crate-name", name, &format!("{name}/main.rs"), "-o"]).arg(&program);
    compiler.args(["--target", &variable("TARGET"), "-Copt-level=s", "-Cpanic=abort", "-Clto=fat"]);
    // One piece at a fixed address: nothing has to be relocated before its first instruction.
    compiler.args(["-Ccodegen-units=1", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"]);
    for argument in ["-nostartfiles", "-nostdlib", "-static"] {
        compiler.arg(format!("-Clink-arg={argument}"));
    }
    compiler.args(["-Cstrip=symbols", "-Cdebuginfo=0", "--cap-lints=allow"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        compiler.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let status = compiler.status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the program {name}/ could not be built; its errors stand above. It needs what every Rust program needs: \
         the compiler in RUSTC and a linker for {} (install a C compiler, or set `linker` for the target in \
         cargo's configuration)",
        variable("TARGET")
    );
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name} for build scripts: {error}"))
}
