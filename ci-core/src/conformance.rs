//! What conformance kits are made of.
//!
//! A kit is a list of cases, each an `async fn` over a backend. [`declare_kit!`](crate::declare_kit) names the
//! cases once and makes a macro of them, which a backend's tests call once: it becomes one `#[test]` per case, so
//! no backend can forget one.
//!
//! A test that cannot run here is not a test that passed. It says why through [`Setup::Skip`] or [`skip`]; skips
//! are counted, and are failures where `CI_REQUIRE` asks for what they lack. This module is for tests: it is the
//! only one in the SDK that reads the environment and prints.
//!
//! [`audit`] is a kit for what lies below an audit log; those of the ports are in the crates that implement them.

pub mod audit;
mod faults;

pub use faults::{Fault, FaultyRecords};

use std::any::Any;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;

/// What a backend's tests hand to a kit: a backend, or the reason why there is none here.
///
/// # Example
///
/// ```
/// use ci_core::conformance::Setup;
/// # #[derive(Debug)] struct Database;
/// # impl Database { async fn connect(_: &str) -> Option<Self> { None } }
///
/// async fn setup() -> Setup<Database> {
///     let Ok(server) = std::env::var("TEST_POSTGRES") else {
///         return Setup::Skip { need: "postgres", reason: "TEST_POSTGRES names no server".to_owned() };
///     };
///     Setup::ready(Database::connect(&server).await.expect("the server answers"))
/// }
/// # let _ = setup;
/// ```
#[derive(Debug)]
pub enum Setup<T> {
    /// A backend of its own for one case.
    Ready(T, Guard),
    /// There is none here.
    Skip {
        /// What is missing, in one word, as `CI_REQUIRE` names it: `postgres`.
        need: &'static str,
        /// What is missing, for people.
        reason: String,
    },
}

impl<T> Setup<T> {
    /// A backend that needs nothing beside it.
    pub fn ready(backend: T) -> Self {
        Self::Ready(backend, Guard(Box::new(())))
    }

    /// A backend that lives as long as `guard`: a temporary folder, a server.
    pub fn with_guard(backend: T, guard: impl Any) -> Self {
        Self::Ready(backend, Guard(Box::new(guard)))
    }
}

/// What must live as long as a backend.
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "held for its destructor")] Box<dyn Any>);

/// Runs one case of a kit, on a tokio runtime of its own with two threads; [`declare_kit!`](crate::declare_kit) calls
/// it.
///
/// # Panics
///
/// When the case fails, and when a backend that `CI_REQUIRE` asks for is missing.
pub fn run<T>(case: &str, setup: impl AsyncFnOnce() -> Setup<T>, test: impl AsyncFnOnce(T)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime for the test").block_on(async {
        match setup().await {
            Setup::Ready(backend, _guard) => test(backend).await,
            Setup::Skip { need, reason } => skip(case, need, &reason),
        }
    });
}

/// Whether a case of a kit fails: what shows that it notices a backend that is broken on purpose.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::conformance::bites;
///
/// async fn it_is_even(number: u32) {
///     assert!(number.is_multiple_of(2));
/// }
///
/// assert!(bites(it_is_even(3)).await && !bites(it_is_even(2)).await);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn bites(case: impl Future<Output = ()>) -> bool {
    AssertUnwindSafe(case).catch_unwind().await.is_err()
}

/// Says that a test cannot run here, and counts it.
///
/// `CI_REQUIRE` holds the needs (or `all`), separated by commas, whose lack is a failure. `CI_SKIPS` names a file
/// to which every skip adds a line.
///
/// # Panics
///
/// When `CI_REQUIRE` asks for `need`.
pub fn skip(test: &str, need: &str, reason: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let required = std::env::var("CI_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|asked| asked == need || asked == "all");
    assert!(!is_required, "{test} cannot run here, but CI_REQUIRE asks for {need}: {reason}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Past the test harness, which would swallow the line of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped ({count}): {test}: {reason} [{need}]");
    if let Some(file) = std::env::var_os("CI_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = file.and_then(|mut file| writeln!(file, "{test}: {reason} [{need}]"));
    }
}

/// Declares a conformance kit: names its cases once, and makes the macro that runs them all against a backend.
///
/// The macro takes a closure that makes a backend ([`Setup`]); the kit's module holds one
/// `pub async fn case(backend)` per name.
///
/// # Example
///
/// ```
/// mod kit {
///     pub async fn it_is_even(number: u32) {
///         assert!(number.is_multiple_of(2));
///     }
/// }
///
/// ci_core::declare_kit! {
///     /// Runs every case about numbers.
///     number_kit for crate::kit {
///         it_is_even,
///     }
/// }
///
/// mod two {
///     number_kit!(async || ci_core::conformance::Setup::ready(2));
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! declare_kit {
    ($(#[$meta:meta])* $kit:ident for $module:path { $($case:ident),+ $(,)? }) => {
        $crate::declare_kit!(@with ($) [$(#[$meta])*] $kit [$module] [$($case)+]);
    };
    // A macro that makes a macro has to be handed its dollar sign.
    (@with ($dollar:tt) [$(#[$meta:meta])*] $kit:ident [$module:path] [$($case:ident)+]) => {
        $(#[$meta])*
        #[macro_export]
        macro_rules! $kit {
            ($dollar setup:expr) => {
                $(
                    #[test]
                    fn $case() {
                        use $module as kit;
                        $crate::conformance::run(
                            concat!(module_path!(), "::", stringify!($case)),
                            $dollar setup,
                            kit::$case,
                        );
                    }
                )+
            };
        }
    };
}
