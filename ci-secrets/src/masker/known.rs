//! What one masker and its redactors share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ci_core::secret::{Form, Leak, Sensitive};

use super::forms::Text;
use super::pattern::{Pattern, patterns_of};
use super::patterns::Patterns;

/// How many bytes of patterns one masker tells apart. Beyond it hides everything.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// How many patterns there are before it is looked which of them are the same.
const MANY: usize = 1024;

/// What is looked for.
pub(super) enum Matcher {
    /// There is nothing to hide.
    Nothing,
    /// There is too much to tell apart.
    Everything,
    Patterns(Box<Patterns>),
}

#[derive(Default)]
pub(super) struct Known {
    /// Grows with everything that is learned, so that a redactor sees without a lock that nothing was.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    patterns: Vec<Pattern>,
    /// How many of them are in order, each of them once.
    settled: usize,
    /// What is reported, in the order in which it was learned; patterns name it by its number.
    subjects: Vec<(Sensitive, Form)>,
    numbers: HashMap<(Sensitive, Form), u32>,
    built: Option<Arc<Matcher>>,
}

impl Known {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn add(&self, what: &Sensitive, forms: &[(Form, Text)]) {
        let mut state = self.lock();
        for (form, text) in forms {
            let subject = state.subject(what, *form);
            state.patterns.extend(patterns_of(text, subject));
        }
        if state.patterns.len() > MANY + 2 * state.settled {
            state.settle();
        }
        state.built = None;
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What to look for, and as of which generation.
    pub(super) fn matcher(&self) -> (Arc<Matcher>, u64) {
        let mut state = self.lock();
        let built = state.built.take().unwrap_or_else(|| Arc::new(state.build(MOST_BYTES)));
        state.built = Some(built.clone());
        (built, self.generation())
    }

    /// A report of which subjects were seen how often.
    pub(super) fn leaks(&self, seen: Vec<(usize, u64)>) -> Vec<Leak> {
        if seen.is_empty() {
            return Vec::new();
        }
        let state = self.lock();
        let named =
            seen.into_iter().filter_map(|(subject, times)| Some((state.subjects.get(subject)?, times)));
        let mut leaks: Vec<Leak> =
            named.map(|((what, form), times)| Leak::new(what.clone(), *form, times)).collect();
        leaks.sort_by(|one, other| (&one.what, one.form).cmp(&(&other.what, other.form)));
        leaks
    }

    /// How many patterns there are.
    pub(super) fn len(&self) -> usize {
        let mut state = self.lock();
        state.settle();
        state.settled
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn subject(&mut self, what: &Sensitive, form: Form) -> u32 {
        let Self { subjects, numbers, .. } = self;
        *numbers.entry((what.clone(), form)).or_insert_with_key(|subject| {
            subjects.push(subject.clone());
            u32::try_from(subjects.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// Puts the patterns in order. What is the same in two forms of one secret is of the plainer form alone.
    fn settle(&mut self) {
        if self.settled == self.patterns.len() {
            return;
        }
        self.patterns.sort();
        let subjects = &self.subjects;
        let what = |pattern: &Pattern| subjects.get(pattern.subject as usize).map(|(what, _)| what);
        self.patterns.dedup_by(|next, kept| next.bytes == kept.bytes && what(next) == what(kept));
        self.settled = self.patterns.len();
    }

    fn build(&mut self, most: usize) -> Matcher {
        self.settle();
        let bytes: usize = self.patterns.iter().map(|pattern| pattern.bytes.len()).sum();
        if self.patterns.is_empty() {
            Matcher::Nothing
        } else if bytes > most {
            Matcher::Everything
        } else {
            Matcher::Patterns(Box::new(Patterns::new(&self.patterns)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forms::forms;
    use super::*;

    #[test]
    fn what_is_learned_often_is_kept_once() {
        let known = Known::default();
        known.add(&Sensitive::Credential, &forms(b"hunter2"));
        let once = known.len();
        for _ in 0..1_000 {
            known.add(&Sensitive::Credential, &forms(b"hunter2"));
            assert!(known.lock().patterns.len() < 3 * MANY);
        }
        assert_eq!(known.len(), once);
        assert_eq!(known.generation(), 1_001);
    }

    #[test]
    fn more_than_can_be_told_apart_is_everything() {
        let known = Known::default();
        known.add(&Sensitive::Credential, &forms(b"hunter2"));
        assert!(matches!(known.lock().build(1), Matcher::Everything));
        assert!(matches!(known.lock().build(MOST_BYTES), Matcher::Patterns(_)));
        assert!(matches!(Known::default().lock().build(1), Matcher::Nothing));
    }
}
