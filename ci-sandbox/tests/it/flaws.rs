//! The kit's teeth once more: for every case about the contract, and for the attacks that a backend of shells cannot be
//! weak to, a backend that is the native one but for one flaw.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::Result;
use ci_core::conformance::skip;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::Backend;
use ci_sandbox::conformance::attack::ATTACKS;
use ci_sandbox::conformance::{Bench, Outcome, World, assess_by, contract};
use ci_sandbox::native::{Config, ImageSource, Native, RoutedNetwork};
use futures_util::StreamExt as _;

use crate::flawed::{Flaw, Flawed};
use crate::kit::of_image;
use crate::realm::Realm;
use crate::support::{Rig, image, is_root, spec};
use crate::weak::Weak;

struct OnFlawed {
    rig: Rig,
    flawed: Flawed,
    flaw: Flaw,
    /// How the addresses of sandboxes are given out.
    routed: RoutedNetwork,
}

impl std::fmt::Debug for OnFlawed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnFlawed").field(&self.flaw).finish()
    }
}

impl OnFlawed {
    fn new(flaw: Flaw) -> Arc<Self> {
        Self::routed(flaw, Realm::routed())
    }

    fn routed(flaw: Flaw, routed: RoutedNetwork) -> Arc<Self> {
        let rig = if flaw == Flaw::MakesOneForAll { on_open_image() } else { Rig::new() };
        let flawed = Flawed::new(Arc::new(rig.native.clone()), flaw, spec());
        Arc::new(Self { rig, flawed, flaw, routed })
    }
}

/// One whose image everybody may write to, each for themselves.
fn on_open_image() -> Rig {
    let state = tempfile::tempdir().unwrap();
    let root = state.path().join("image");
    for folder in ["usr", "bin", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let config = Config::new(state.path().join("books")).with_image(image(), ImageSource::Directory(root));
    Rig::of(Native::new(config).unwrap(), state)
}

#[async_trait]
impl Bench for OnFlawed {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.flawed.clone())
    }

    fn image(&self) -> ImageName {
        image()
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.rig.state().to_owned()]
    }

    /// Unpacked as a careless program does: by names as they are, and through whatever link is in the way.
    async fn with_image(&self, layout: &Path) -> Option<Result<(Arc<dyn Backend>, ImageName)>> {
        let root = self.rig.state().join(SandboxId::random().to_string());
        fs::create_dir(&root).unwrap();
        for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten() {
            let mut tar = Command::new("tar");
            tar.args(["-xP", "-C"]).arg(&root).arg("-f").arg(blob.path()).stderr(std::process::Stdio::null());
            let _ = tar.status();
        }
        Some(of_image(&self.rig, ImageSource::Directory(root)))
    }

    async fn world(&self) -> Option<Arc<dyn World>> {
        if self.flaw == Flaw::KeepsPrivileges {
            return Realm::of_weak(Weak::new("host network,privileges,rules", &[]))
                .map(|realm| Arc::new(realm) as _);
        }
        let realm = Realm::new(self.routed.clone())?;
        let realm = realm.with_backend(|inner| Arc::new(Flawed::new(inner, self.flaw, spec())));
        Some(Arc::new(realm))
    }
}

/// How many cases run side by side: most of them wait most of the time.
const AT_ONCE: usize = 4;

type Case = fn(Arc<dyn Bench>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a case says against a backend with this flaw; nothing when it has nothing to say.
async fn objection(flaw: Flaw, case: Case) -> Option<String> {
    let bench = OnFlawed::new(flaw);
    let tried = tokio::spawn(case(bench.clone())).await;
    bench.flawed.clear().await;
    let panic = tried.err()?.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}

/// One test per flaw, and the cases that must find it, each with a word of what it says of it.
macro_rules! flaws {
    ($($test:ident: $flaw:ident { $($case:ident: $word:literal),+ $(,)? })+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $(
                    let said = objection(Flaw::$flaw, |bench| Box::pin(contract::$case(bench))).await;
                    // A guarantee that takes root is not tried without it.
                    let Some(said) = said else {
                        assert!(!is_root(), "{} does not find it", stringify!($case));
                        return skip(stringify!($test), "root", "an ordinary user's backend does not declare it");
                    };
                    assert!(said.contains($word), "{}: {:?} is not in {said}", stringify!($case), $word);
                )+
            }
        )+

        /// What the cases find is the flaw, and nothing that all of these backends have.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn without_a_flaw_nothing_is_found() {
            let mut cases: BTreeMap<&str, Case> = BTreeMap::new();
            $($(cases.insert(stringify!($case), |bench| Box::pin(contract::$case(bench)));)+)+
            let all: BTreeSet<_> = contract::CASES.iter().copied().collect();
            assert_eq!(cases.keys().copied().collect::<BTreeSet<_>>(), all, "every case finds some flaw");
            let tried = cases.into_iter().map(|(name, case)| async move { (name, objection(Flaw::None, case).await) });
            let tried: Vec<_> = futures_util::stream::iter(tried).buffer_unordered(AT_ONCE).collect().await;
            let said: Vec<_> = tried.into_iter().filter(|(_, said)| said.is_some()).collect();
            assert!(said.is_empty(), "{said:#?}");
        }
    };
}

flaws! {
    lost_exit_codes: LosesExitCodes { a_program_ends_with_any_code: "Code(0)" }
    signals_told_as_codes: TellsSignalsAsCodes {
        a_program_ends_by_its_signal: "Code(129)",
        writing_without_end_is_no_way_around_it: "Code(137)",
        silence_is_bounded_by_itself: "Code(137)",
    }
    memory_told_as_a_signal: TellsMemoryAsSignal { running_out_of_memory_is_an_outcome: "OutOfMemory" }
    lost_arguments: LosesArguments { arguments_arrive_as_they_are: "left" }
    added_variables: AddsVariables { variables_are_those_of_the_command_alone: "no variable was given" }
    ignored_directories: IgnoresDirectories { it_runs_where_it_is_told: "/work" }
    an_input_that_nobody_gave: FeedsInput { there_is_nothing_on_its_input: "noise" }
    other_errors: TellsOtherErrors { what_cannot_be_started_says_why: "Internal" }
    one_signal_for_all: KillsForEverySignal {
        a_signal_reaches_the_program: "Signal(15)",
        signals_and_drops_reach_a_program_on_a_terminal: "Hangup",
    }
    programs_that_are_not_stopped: LeavesDroppedPrograms { a_dropped_process_is_stopped: "still runs" }
    programs_that_are_said_to_be_killed: PretendsToKill { what_takes_too_long_is_killed: "and lives" }
    programs_in_different_places: RunsElsewhere { programs_share_their_files: "hello" }
    lost_output: LosesOutput {
        both_streams_are_whole_and_apart: "came",
        a_terminal_changes_nothing_but_line_ends: "came, or others",
    }
    output_that_is_not_merged: MergesNothing { merged_output_keeps_its_order: "in another order" }
    lost_input: LosesInput { what_is_written_is_read: "came back, or others" }
    an_input_that_ends_early: EndsInputEarly { an_input_ends_when_it_is_dropped: "while somebody holds it" }
    an_input_for_everybody: HandsInputOutAgain { an_input_is_handed_out_once: "a second one" }
    an_input_without_a_bound: TakesAllInput {
        who_reads_nothing_holds_its_writer_back: "were taken",
        what_nobody_will_read_is_refused: "must be refused",
    }
    typing_twice: TypesTwice { what_is_typed_has_its_effect: "words" }
    no_terminals: MakesNoTerminals {
        a_terminal_is_all_three_streams: "no no no",
        a_terminal_ends_with_its_program: "Unsupported",
    }
    terminals_for_all: MakesTerminalsOnly { there_is_no_terminal_that_nobody_asked_for: "yes yes yes" }
    turned_terminals: TurnsTerminals { a_terminal_can_be_resized: "132 50" }
    changed_downloads: ChangesDownloads { a_tree_comes_back_as_it_went: "another one" }
    old_files: KeepsOldFiles { an_upload_replaces_what_is_there: "one, the longer" }
    echoed_uploads: EchoesUploads { privileges_do_not_travel: "3565" }
    swallowed_errors: SwallowsErrors {
        what_is_no_archive_is_refused: "must be refused",
        an_upload_that_does_not_fit_is_refused: "must be refused",
        what_is_not_there_is_not_found: "must be refused",
    }
    ignored_folders: IgnoresFolders { a_folder_of_the_machine_is_read_only: "of the machine" }
    forgotten_secrets: ForgetsSecrets {
        a_secret_that_is_not_leased_is_not_found: "must be refused",
        secrets_end_with_the_claim: "must be refused",
    }
    kept_secrets: KeepsSecrets { a_secret_is_seen_by_the_program_that_asked: "it did not ask" }
    kept_secret_files: KeepsSecretFiles {
        a_secret_can_be_a_file: "still there",
        a_secret_file_goes_with_its_program: "left",
    }
    secrets_only_as_variables: MakesSecretsVariables { a_secret_can_be_a_file: "it starts" }
    forgotten_guarantees: ForgetsGuarantees { every_guarantee_is_held_or_says_why_not: "not held by the sandbox" }
    an_ignored_minimum: IgnoresMinimum { what_cannot_be_guaranteed_is_refused: "must be refused" }
    ignored_rules: IgnoresRules { a_network_that_cannot_be_had_is_refused: "must be refused" }
    ignored_limits: IgnoresLimits {
        a_full_disk_is_the_writers_error: "ENOSPC",
        a_full_process_table_is_an_error: "200 programs run",
    }
    lies_about_use: LiesAboutUse {
        a_programs_use_is_counted: "0ns",
        a_sandboxs_use_is_what_it_did: "0ns of processor time",
        a_sandbox_that_is_gone_uses_nothing: "must be refused",
    }
    any_image: TakesAnyImage { an_unknown_image_is_not_found: "must be refused" }
    an_id_for_two: TakesAnIdTwice { an_id_is_used_once_at_a_time: "must be refused" }
    a_second_end_that_fails: DestroysOnce { destroying_again_is_no_error: "NotFound" }
    a_residue_that_is_none: CountsWhatIsGone { destroyed_while_it_is_made: "something of it is left" }
    survivors: DestroysNothing {
        what_is_gone_cannot_be_used: "it ends",
        dropped_at_any_moment: "left",
    }
    abandoned_for_ever: AbandonsNothing { an_abandoned_sandbox_goes: "still run" }
    the_living_listed: ListsTheLiving { nobody_lists_what_is_in_use: "listed as left over" }
    one_for_all: MakesOneForAll {
        the_image_is_not_the_jobs_to_write: "is shared with another sandbox",
        // Whoever is first takes it away from the others, or overwrites what they wrote.
        many_live_side_by_side: "",
    }
    services_apart: MakesServicesApart {
        a_service_is_reached_at_loopback: "served",
        each_ends_without_the_other: "must be refused",
    }
}

/// Checks that an attack finds a flaw, and what it says of it.
async fn finds(test: &str, bench: Arc<OnFlawed>, case: &str, word: &str) {
    if !is_root() {
        return skip(test, "root", "an ordinary user has no such sandboxes");
    }
    let attack = ATTACKS.iter().find(|attack| attack.case == case).unwrap();
    let assessment = assess_by(bench.clone(), [attack]).await;
    bench.flawed.clear().await;
    match &assessment.findings[0].outcome {
        Ok(Outcome::Broken(how)) => assert!(how.contains(word), "{case}: {word:?} is not in {how}"),
        other => panic!("{case} does not find it: {other:?}"),
    }
}

macro_rules! holes {
    ($($test:ident: $bench:expr, $case:literal, $word:literal;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                finds(stringify!($test), $bench, $case, $word).await;
            }
        )+
    };
}

fn hurried() -> RoutedNetwork {
    RoutedNetwork::new("10.200.0.0/30".parse().unwrap()).with_rest(Duration::ZERO)
}

holes! {
    images_unpacked_carelessly: OnFlawed::new(Flaw::None), "f_03_hostile_images", "file of the machine";
    a_terminal_that_nobody_asked_for: OnFlawed::new(Flaw::MakesTerminalsOnly),
        "s_02_terminal_of_the_supervisor", "open the terminal of its session";
    rules_that_nobody_made: OnFlawed::new(Flaw::AddsRules), "n_04_beside_the_rules", "talk to";
    a_name_server_of_its_own: OnFlawed::new(Flaw::AddsRules), "n_05_name_tunnel", "a name server of its own";
    connections_that_are_left: OnFlawed::new(Flaw::DestroysNothing), "n_07_surviving_flow", "outlives it";
    connections_shared: OnFlawed::routed(Flaw::MakesOneForAll, Realm::routed().with_connections(8)),
        "n_09_exhaustion", "keep others from connecting";
    rules_that_come_late: OnFlawed::new(Flaw::AddsRules), "n_10_before_the_rules", "before there are rules";
    devices_that_are_left: OnFlawed::new(Flaw::DestroysNothing), "n_10_before_the_rules", "leave of its network";
    packets_of_its_own_making: OnFlawed::new(Flaw::KeepsPrivileges), "n_06_forged_packets", "of its own making";
    addresses_without_rest: OnFlawed::routed(Flaw::None, hurried()), "n_11_inherited_address", "another has just had";
    work_that_is_not_counted: OnFlawed::new(Flaw::LiesAboutUse), "r_04_hidden_work", "are counted";
    secret_files_that_are_left: OnFlawed::new(Flaw::KeepsSecretFiles), "e_03_secret_file", "after its program";
    services_of_the_job: OnFlawed::new(Flaw::MakesServicesOfTheJob), "k_04_service_beside", "the job's";
}
