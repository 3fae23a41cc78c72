//! What [`ci_core::sandbox`] promises to callers.

mod exec;
mod files;
mod input;
mod life;
mod limits;
mod secrets;
mod services;
mod terminal;
mod time;

use std::sync::Arc;

use ci_core::Error;
use ci_core::conformance::skip;
use ci_core::sandbox::{Guarantee, Spec};

use super::Bench;
use super::guest::Guest;

/// Declares the cases by the files that they are in, and the kit.
macro_rules! cases {
    ($($file:ident { $($case:ident),+ $(,)? })+) => {
        $(pub use self::$file::{$($case),+};)+

        /// The names of all cases.
        pub const CASES: &[&str] = &[$($(stringify!($case)),+),+];

        ci_core::declare_kit! {
            /// Runs every case about sandboxes, against a closure that makes a [`Bench`](crate::conformance::Bench) in
            /// an `Arc`.
            sandbox_kit for ::ci_sandbox::conformance::contract { $($($case),+),+ }
        }
    };
}

cases! {
    exec {
        a_program_ends_with_any_code,
        a_program_ends_by_its_signal,
        arguments_arrive_as_they_are,
        variables_are_those_of_the_command_alone,
        it_runs_where_it_is_told,
        there_is_nothing_on_its_input,
        both_streams_are_whole_and_apart,
        merged_output_keeps_its_order,
        what_cannot_be_started_says_why,
        a_signal_reaches_the_program,
        a_dropped_process_is_stopped,
        programs_share_their_files,
    }
    input {
        what_is_written_is_read,
        an_input_ends_when_it_is_dropped,
        an_input_is_handed_out_once,
        who_reads_nothing_holds_its_writer_back,
        what_nobody_will_read_is_refused,
    }
    terminal {
        a_terminal_is_all_three_streams,
        there_is_no_terminal_that_nobody_asked_for,
        a_terminal_can_be_resized,
        what_is_typed_has_its_effect,
        a_terminal_ends_with_its_program,
        signals_and_drops_reach_a_program_on_a_terminal,
        a_terminal_changes_nothing_but_line_ends,
    }
    time {
        what_takes_too_long_is_killed,
        writing_without_end_is_no_way_around_it,
        silence_is_bounded_by_itself,
    }
    limits {
        running_out_of_memory_is_an_outcome,
        a_full_disk_is_the_writers_error,
        a_full_process_table_is_an_error,
        a_programs_use_is_counted,
        a_sandboxs_use_is_what_it_did,
        a_sandbox_that_is_gone_uses_nothing,
    }
    services {
        a_service_is_reached_at_loopback,
        each_ends_without_the_other,
    }
    files {
        a_tree_comes_back_as_it_went,
        an_upload_replaces_what_is_there,
        privileges_do_not_travel,
        what_is_no_archive_is_refused,
        an_upload_that_does_not_fit_is_refused,
        what_is_not_there_is_not_found,
        the_image_is_not_the_jobs_to_write,
        a_folder_of_the_machine_is_read_only,
    }
    secrets {
        a_secret_is_seen_by_the_program_that_asked,
        a_secret_can_be_a_file,
        a_secret_file_goes_with_its_program,
        a_secret_that_is_not_leased_is_not_found,
        secrets_end_with_the_claim,
        every_guarantee_is_held_or_says_why_not,
        what_cannot_be_guaranteed_is_refused,
        a_network_that_cannot_be_had_is_refused,
    }
    life {
        an_unknown_image_is_not_found,
        an_id_is_used_once_at_a_time,
        destroying_again_is_no_error,
        what_is_gone_cannot_be_used,
        an_abandoned_sandbox_goes,
        destroyed_while_it_is_made,
        dropped_at_any_moment,
        many_live_side_by_side,
        nobody_lists_what_is_in_use,
    }
}

/// A sandbox within the default limits.
async fn sandbox(bench: &Arc<dyn Bench>) -> Guest {
    sandbox_of(bench, Spec::new(bench.image())).await
}

async fn sandbox_of(bench: &Arc<dyn Bench>, spec: Spec) -> Guest {
    Guest::of(bench.backend(), spec).await.expect("a sandbox")
}

/// Takes it down, of which nothing must be left.
async fn gone(guest: Guest) {
    let residue = guest.destroy().await.expect("it can be taken down");
    assert!(residue.is_empty(), "something of it is left: {residue:?}");
}

/// What the program writes that writes to both streams in turn.
fn alternating(lines: usize, end: &str) -> String {
    let pairs = (0..lines).map(|number| format!("out {number}{end}err {number}{end}"));
    pairs.collect::<Vec<_>>().concat()
}

/// The error of something that must fail.
fn refusal<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it must be refused"),
        Err(error) => error,
    }
}

/// Whether the backend declares a guarantee; a case that needs it is skipped where it does not.
fn declares(bench: &Arc<dyn Bench>, guarantee: Guarantee, case: &str) -> bool {
    let isolation = bench.backend().capabilities().isolation;
    let is_declared = isolation.held.contains(&guarantee);
    if !is_declared {
        skip(case, "guarantee", &format!("{guarantee:?} is not declared"));
    }
    is_declared
}
