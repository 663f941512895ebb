//! The experience with the models of each account: what status has, and what was learned since.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::remembered::Remembered;
use crate::api::ModelStatus;
use crate::lifecycle::learn;

/// Most accounts whose experience is held. Lost experience is learned anew.
const REMEMBERED: usize = 256;

/// The experience, by uid of the provider. The next look at the account writes new experience into status, so that it costs no write of
/// its own. If the process ends before that look, the new experience is lost.
pub(crate) struct Experience(Mutex<Remembered<Models>>);

impl Default for Experience {
    fn default() -> Self {
        Experience(Mutex::new(Remembered::new(REMEMBERED)))
    }
}

#[derive(Default)]
struct Models {
    /// All of it.
    all: Arc<[ModelStatus]>,
    /// What was learned since the last look.
    unwritten: Vec<ModelStatus>,
    /// What the last look is to write.
    writing: Vec<ModelStatus>,
}

impl Experience {
    /// Returns the experience with the models of an account.
    pub fn of(&self, uid: &str) -> Arc<[ModelStatus]> {
        self.known().get(uid).map(|models| models.all.clone()).unwrap_or_default()
    }

    /// Adds what a batch taught about a model of an account, whose object is in this namespace.
    pub fn learn(&self, uid: &str, namespace: Option<&str>, lesson: &ModelStatus) {
        let mut known = self.known();
        let models = known.entry(uid, namespace);
        let mut all = models.all.to_vec();
        learn(&mut all, lesson);
        models.all = all.into();
        learn(&mut models.unwritten, lesson);
    }

    /// Takes over the experience in `status`, as it was read for a look. Returns it with all that it lacks.
    pub fn with(&self, uid: &str, namespace: Option<&str>, status: &[ModelStatus]) -> Vec<ModelStatus> {
        let mut known = self.known();
        let models = known.entry(uid, namespace);
        let mut all = status.to_vec();
        for model in std::mem::take(&mut models.unwritten) {
            learn(&mut models.writing, &model);
        }
        models.writing.iter().for_each(|model| learn(&mut all, model));
        models.all = all.clone().into();
        all
    }

    /// Records that status has what the last look was to write.
    pub fn wrote(&self, uid: &str) {
        if let Some(models) = self.known().get(uid) {
            models.writing.clear();
        }
    }

    fn known(&self) -> MutexGuard<'_, Remembered<Models>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LearnedTokens;

    fn answers(models: &[ModelStatus]) -> Vec<(&str, i64)> {
        models.iter().map(|model| (model.name.as_str(), model.tokens.answers)).collect()
    }

    #[test]
    fn what_batches_teach_is_known_at_once_and_reaches_status_once_even_if_a_write_fails() {
        let experience = Experience::default();
        let lesson = |answers| ModelStatus {
            name: "m".into(),
            tokens: LearnedTokens { answers, ..LearnedTokens::default() },
            ..ModelStatus::default()
        };
        let learn = |answers| experience.learn("u", None, &lesson(answers));
        let old = vec![lesson(100)];
        learn(1);
        assert_eq!((answers(&experience.of("u")), experience.of("v").len()), (vec![("m", 1)], 0));
        assert_eq!(answers(&experience.with("u", None, &old)), [("m", 101)]);
        learn(2);
        assert_eq!(answers(&experience.of("u")), [("m", 103)], "during the write, which fails");
        let written = experience.with("u", None, &old);
        assert_eq!(answers(&written), [("m", 103)]);
        learn(3);
        experience.wrote("u");
        assert_eq!(answers(&experience.with("u", None, &written)), [("m", 106)]);
        experience.wrote("u");
        assert_eq!(answers(&experience.with("u", None, &[])), [], "another one emptied status: it is learned anew");
    }
}
