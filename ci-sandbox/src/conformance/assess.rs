//! A report on one backend that an operator can read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ci_core::sandbox::{Guarantee, IsolationReport};

use super::Bench;
use super::attack::{ATTACKS, Attack, Outcome, Requirement, Stage};

/// What was declared, what was tried, and what came of it.
///
/// Its `Display` is a report in three parts: a table of the guarantees, what did not hold, and what both mean for SLSA.
/// It is a self-assessment: a machine that passes has withstood what is known here, today, and nothing more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Assessment {
    /// What the backend says of itself.
    pub isolation: IsolationReport,
    /// What came of every attack.
    pub findings: Vec<Finding>,
}

/// What came of one attack.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// Which one.
    pub attack: Attack,
    /// Whether the backend declares every guarantee that promises that it fails.
    pub is_declared: bool,
    /// What came of it; the error of one that could not be tried to its end.
    pub outcome: Result<Outcome, String>,
}

impl Finding {
    /// Whether it shows a hole: it worked, or it could not be tried to its end, although it was promised that it fails.
    pub fn is_hole(&self) -> bool {
        self.is_declared && matches!(self.outcome, Ok(Outcome::Broken(_)) | Err(_))
    }
}

/// Tries every attack against a backend, those too that it does not claim to withstand.
///
/// It takes about a minute on a machine of two processors, and starts some two hundred sandboxes. Run it where an attack that
/// works does no harm to others: the attacks are bounded and harmless by themselves, a backend without bounds is not.
///
/// # Example
///
/// ```no_run
/// # async fn example(bench: std::sync::Arc<dyn ci_sandbox::conformance::Bench>) {
/// let assessment = ci_sandbox::conformance::assess(bench).await;
/// println!("{assessment}");
/// assert!(assessment.holes().next().is_none());
/// # }
/// ```
pub async fn assess(bench: Arc<dyn Bench>) -> Assessment {
    assess_by(bench, ATTACKS).await
}

/// The same with some attacks alone: those of `ATTACKS` that matter to somebody, or that are quick.
pub async fn assess_by(bench: Arc<dyn Bench>, attacks: impl IntoIterator<Item = &Attack>) -> Assessment {
    let isolation = bench.backend().capabilities().isolation;
    let mut findings = Vec::new();
    let mut stage = Stage::new(bench);
    for attack in attacks {
        let outcome = attack.attempt(&stage).await.map_err(|error| error.to_string());
        if !matches!(outcome, Ok(Outcome::Held(_))) {
            // It may have hurt the sandbox that others share.
            let _ = stage.clear().await;
        }
        let is_declared = attack.undeclared(&isolation).is_none();
        findings.push(Finding { attack: *attack, is_declared, outcome });
    }
    let _ = stage.clear().await;
    Assessment { isolation, findings }
}

impl Assessment {
    /// The attacks that worked although the backend promises that they fail.
    pub fn holes(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.is_hole())
    }

    /// What is said of a guarantee: by the backend, by which attacks it was tried, and what came of them.
    fn row(&self, guarantee: Option<Guarantee>) -> [String; 4] {
        let stands_for = |finding: &&Finding| match guarantee {
            Some(guarantee) => finding.attack.guarantees.contains(&guarantee),
            None => finding.attack.guarantees.is_empty(),
        };
        let findings: Vec<_> = self.findings.iter().filter(stands_for).collect();
        let (name, declared) = match guarantee {
            None => ("(every sandbox)".to_owned(), "demanded".to_owned()),
            Some(guarantee) if self.isolation.held.contains(&guarantee) => {
                (format!("{guarantee:?}"), "held".to_owned())
            }
            Some(guarantee) => (format!("{guarantee:?}"), "missing".to_owned()),
        };
        let mut ids: Vec<_> = findings.iter().map(|finding| finding.attack.id).collect();
        ids.dedup();
        [name, declared, summary(&findings), ids.join(" ")]
    }
}

/// What came of several attacks together.
fn summary(findings: &[&Finding]) -> String {
    let count = |is: fn(&Finding) -> bool| findings.iter().filter(|finding| is(finding)).count();
    let held = count(|finding| matches!(finding.outcome, Ok(Outcome::Held(_))));
    let broken = count(Finding::is_hole);
    let open =
        count(|finding| !finding.is_declared && matches!(finding.outcome, Ok(Outcome::Broken(_)) | Err(_)));
    let untried = count(|finding| matches!(finding.outcome, Ok(Outcome::Untried(_))));
    let parts: Vec<String> = [(held, "held"), (broken, "BROKEN"), (open, "open"), (untried, "untried")]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() { "not tried".to_owned() } else { parts.join(", ") }
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guarantees: BTreeSet<_> =
            self.isolation.held.iter().chain(self.isolation.missing.keys()).copied().collect();
        let head = ["guarantee", "declared", "result", "tried by"].map(str::to_owned);
        let rows: Vec<_> =
            std::iter::once(None).chain(guarantees.into_iter().map(Some)).map(|row| self.row(row)).collect();
        table(f, &head, &rows)?;
        self.write_missing(f)?;
        self.write_findings(f)?;
        self.write_levels(f)
    }
}

fn table(f: &mut fmt::Formatter<'_>, head: &[String; 4], rows: &[[String; 4]]) -> fmt::Result {
    let width = |column: usize| rows.iter().chain([head]).map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    for [name, declared, result, tried] in std::iter::once(head).chain(rows) {
        let [first, second, third] = widths;
        writeln!(f, "{name:first$}  {declared:second$}  {result:third$}  {tried}")?;
    }
    Ok(())
}

impl Assessment {
    fn write_missing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (guarantee, why) in &self.isolation.missing {
            reasons.entry(why).or_default().push(format!("{guarantee:?}"));
        }
        for (why, guarantees) in reasons {
            write!(f, "\nmissing: {}: {why}", guarantees.join(", "))?;
        }
        writeln!(f)
    }

    /// What an operator has to know: whatever did not hold, and whatever was not tried.
    fn write_findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let word = match (&finding.outcome, finding.is_declared) {
                (Ok(Outcome::Held(_)), _) => continue,
                (Ok(Outcome::Untried(_)), _) => "untried",
                (_, true) => "BROKEN",
                (_, false) => "open",
            };
            let what = match &finding.outcome {
                Ok(Outcome::Held(what) | Outcome::Broken(what) | Outcome::Untried(what)) | Err(what) => what,
            };
            write!(f, "\n{word}: {} {}: {what}", finding.attack.id, finding.attack.about)?;
        }
        writeln!(f)
    }

    /// What it means for SLSA's build track, of which a sandbox is one part.
    fn write_levels(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nSLSA v1.1, Build L3, as far as it is the sandbox's (a self-assessment):")?;
        let head = ["requirement", "", "result", "tried by"].map(str::to_owned);
        let rows: Vec<_> = [
            (Requirement::PlatformSecrets, "isolated, unforgeable: no access to the platform's secrets"),
            (Requirement::OverlappingBuilds, "isolated: no influence on builds at the same time"),
            (Requirement::SubsequentBuilds, "isolated: no influence on later builds"),
            (Requirement::RemoteInfluence, "isolated: no influence from outside"),
        ]
        .map(|(requirement, text)| {
            let about = |finding: &&Finding| finding.attack.breaks == Some(requirement);
            let findings: Vec<_> = self.findings.iter().filter(about).collect();
            let mut ids: Vec<_> = findings.iter().map(|finding| finding.attack.id).collect();
            ids.dedup();
            [text.to_owned(), verdict(&findings).to_owned(), summary(&findings), ids.join(" ")]
        })
        .into();
        table(f, &head, &rows)?;
        f.write_str(
            "\nnot the sandbox's: where the platform runs (hosted), who writes and signs provenance (unforgeable), and \
             whose caches a job reads (isolated); a debug session is remote influence, and marks the run.\n",
        )
    }
}

/// Whether all attacks on a requirement were stopped.
fn verdict(findings: &[&Finding]) -> &'static str {
    let was_stopped = |finding: &&Finding| matches!(finding.outcome, Ok(Outcome::Held(_)));
    let is_open = |finding: &&Finding| matches!(finding.outcome, Ok(Outcome::Broken(_)) | Err(_));
    if findings.iter().any(is_open) {
        "not met"
    } else if findings.iter().all(was_stopped) {
        "met"
    } else {
        "met as far as tried"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assessment(outcomes: &[(&str, Outcome)]) -> Assessment {
        let isolation = IsolationReport::new([Guarantee::SyscallFilter, Guarantee::Firewalled])
            .with_missing(Guarantee::SeparateInit, "there is one user");
        let findings = outcomes.iter().map(|(case, outcome)| {
            let attack = *ATTACKS.iter().find(|attack| attack.case == *case).expect("a case");
            let is_declared = attack.undeclared(&isolation).is_none();
            Finding { attack, is_declared, outcome: Ok(outcome.clone()) }
        });
        Assessment { findings: findings.collect(), isolation }
    }

    #[test]
    fn the_report_tells_what_holds_and_what_does_not() {
        let shown = assessment(&[
            ("p_09_ptrace_of_process_one", Outcome::Broken("it could: trace".to_owned())),
            ("s_01_keys", Outcome::Held("4 tries refused: EPERM".to_owned())),
            ("s_10_hypervisor", Outcome::Broken("it could: speak".to_owned())),
            ("p_11_supervisor_killed", Outcome::Untried("nobody is killed".to_owned())),
        ]);
        assert_eq!(shown.holes().map(|finding| finding.attack.id).collect::<Vec<_>>(), ["S-10"]);
        let text = shown.to_string();
        for line in [
            "(every sandbox)  demanded  1 untried  P-11",
            "SeparateInit     missing   1 open     P-9",
            "SyscallFilter    held      1 held     S-1",
            "Firewalled       held      1 BROKEN   S-10",
            "missing: SeparateInit: there is one user",
            "open: P-9 trace process 1: it could: trace",
            "BROKEN: S-10 speak to the hypervisor: it could: speak",
            "untried: P-11 outlive the program that made the sandbox: nobody is killed",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let of = |start: &str| text.lines().find(|line| line.starts_with(start)).expect("a line").to_owned();
        assert!(of("isolated, unforgeable").contains("  met  "), "{text}");
        assert!(of("isolated: no influence from outside").contains("not met"), "{text}");
        assert!(of("isolated: no influence on later").contains("met as far as tried"), "{text}");
    }

    #[test]
    fn every_attack_has_a_case_of_its_own_and_says_what_it_is() {
        let cases: BTreeSet<_> = ATTACKS.iter().map(|attack| attack.case).collect();
        assert_eq!(cases.len(), ATTACKS.len());
        for attack in ATTACKS {
            let (letter, number) = attack.id.split_once('-').expect("a letter and a number");
            let number: u32 = number.parse().expect("a number");
            let start = format!("{}_{number:02}_", letter.to_lowercase());
            assert!(attack.case.starts_with(&start), "{} is called {}", attack.id, attack.case);
            assert!(!attack.about.is_empty());
        }
    }
}
