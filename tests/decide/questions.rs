//! People's answers.

use super::*;

#[test]
fn while_a_person_is_asked_the_search_goes_on() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.files.insert("file-1".into(), false);
    memory.searches.insert("intent-1".into(), Search { began: NOW - 400_000, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Search(_)), "once the intent is over");
    memory.searches.insert("intent-1".into(), Search { began: NOW - 4, found: Some(vec![]) });
    let Step::Wait { until, why } = step(&job(), Some(&journal), &memory) else { panic!("no wait") };
    assert_eq!((until, why.holds.len()), (Some(NOW + 6), 1));
    memory.searches.insert("intent-1".into(), Search { began: NOW - 10, found: Some(vec![]) });
    assert!(
        matches!(step(&job(), Some(&journal), &memory), Step::Search(_)),
        "and again, once the list may have caught up"
    );
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    let Step::Swap(next) = step(&job(), Some(&journal), &memory) else { panic!("no record") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-1"));
}

fn deletes_its_file() -> Step {
    Step::DeleteFiles {
        files: vec!["file-1".into()],
        attempt_key: Some(AttemptKey { shard: 0, attempt: 1 }),
        must: true,
    }
}

#[test]
fn a_persons_none_deletes_the_input_file_before_it_counts() {
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let told = JobView { answers: Answers::one("unknown-intent-1", "none"), ..job() };
    let mut memory = memory();
    assert_eq!(step(&told, Some(&journal), &memory), deletes_its_file());
    memory.deleted.insert("file-1".into());
    let Step::Swap(next) = step(&told, Some(&journal), &memory) else { panic!("not revoked") };
    assert!(matches!(next.shards[0].attempt.as_ref().unwrap().state, AttemptState::Revoked { .. }));
}

#[test]
fn a_persons_resend_deletes_the_input_file_before_it_counts() {
    let journal = journal(owner("j", "u"), submitted());
    let told = JobView { answers: Answers::one("lost-intent-1", "resend"), ..job() };
    let mut memory = memory();
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: PolledState::NotFound });
    assert_eq!(step(&told, Some(&journal), &memory), deletes_its_file());
    memory.deleted.insert("file-1".into());
    assert!(matches!(step(&told, Some(&journal), &memory), Step::Swap(_)));
}

#[test]
fn with_hold_a_person_is_asked_and_nothing_is_revoked() {
    let hold = with_provider(|p| p.unknown_submission_policy = UnknownSubmissionPolicy::Hold);
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.files.insert("file-1".into(), true);
    memory.resolvable = Some(true);
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::Swap(_)), "with Resolve it is");
    let Step::Wait { why, .. } = step(&hold, Some(&journal), &memory) else { panic!("no wait") };
    assert!(why.holds[0].message.contains("`unknownSubmissionPolicy` is Hold"), "{:?}", why.holds);
    let revoking = self::journal(owner("j", "u"), Some(AttemptState::Revoking));
    memory.revoked.insert("file-1".into(), NOW - 1_000);
    let Step::Wait { why, .. } = step(&hold, Some(&revoking), &memory) else { panic!("no wait") };
    assert_eq!(why.holds.len(), 1, "nor sent again once the policy changed");
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec!["batch-1".into()]) });
    let Step::Swap(next) = step(&hold, Some(&journal), &memory) else { panic!("no record") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-1"), "what is found is adopted");
}

/// The question, and the job as a person who gave its first answer leaves it.
fn asked_and_answered(job: &JobView, journal: &Journal, memory: &Memory) -> (String, JobView) {
    let Step::Wait { why, .. } = step(job, Some(journal), memory) else { panic!("nobody is asked") };
    let (id, answer) = why.holds[0].answers[0].split_once('=').unwrap();
    assert_eq!(id, why.holds[0].id);
    (why.holds[0].message.clone(), JobView { answers: Answers::one(id, answer), ..job.clone() })
}

#[test]
fn a_copy_in_another_cluster_takes_the_work_over_on_a_word_that_holds_for_that_time() {
    let memory = the_same_work(memory());
    let first = JobView { owner: Owner { cluster: "d".into(), ..owner("j", "first-uid") }, ..job() };
    let begun = journal(first.owner.clone(), submitted());
    let (message, told) = asked_and_answered(&job(), &begun, &memory);
    assert!(message.contains("BatchJob n/j of another cluster (its kube-system has the uid d)"), "{message}");
    let Step::Swap(taken) = step(&told, Some(&begun), &memory) else { panic!("not taken") };
    assert_eq!((&taken.owner, taken.named_after()), (&job().owner, "d"), "the provider knows it by its first name");
    assert_eq!(taken.shards, begun.shards);
    let (_, first_told) = asked_and_answered(&first, &taken, &memory);
    let Step::Swap(back) = step(&first_told, Some(&taken), &memory) else { panic!("not taken back") };
    assert_eq!((&back.owner, back.named_after()), (&first.owner, "d"));
    assert!(matches!(step(&told, Some(&back), &memory), Step::Wait { .. }), "an answer holds once");
    assert!(matches!(step(&told, Some(&begun), &other_work(self::memory())), Step::Fail(_)), "other work is not taken");
    let due = Memory { manifest_at: Some(NOW - 15_000), ..memory.clone() };
    assert_eq!(step(&job(), Some(&begun), &due), Step::LookForManifest, "its results may have come");
    let released = begun.next(|j| j.closing = Some(DeletionPolicy::Orphan));
    assert!(matches!(step(&job(), Some(&released), &memory), Step::Swap(_)), "what was let go of is taken");
}

#[test]
fn an_answer_that_was_copied_with_its_blank_is_none() {
    let hold = with_provider(|p| p.unknown_submission_policy = UnknownSubmissionPolicy::Hold);
    let journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    let Step::Wait { why, .. } = step(&hold, Some(&journal), &memory) else { panic!("nobody is asked") };
    let blank = why.holds[0].answers.iter().find(|a| a.contains("adopt:")).unwrap().split_once('=').unwrap();
    let said = |answer: &str| JobView { answers: Answers::one(blank.0, answer), ..hold.clone() };
    assert!(matches!(step(&said(blank.1), Some(&journal), &memory), Step::Wait { .. }));
    let filled_in = blank.1.replace("BATCH_ID", "batch-7");
    let Step::Swap(next) = step(&said(&filled_in), Some(&journal), &memory) else { panic!("not adopted") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-7"));
}

#[test]
fn a_lost_journal_is_given_up_on_a_persons_word_for_this_very_question() {
    let gone = JobView { remembered: Some(("w".into(), Plan { requests: 4, ..plan("h") })), ..job() };
    let mut memory = memory();
    let asked = |job: &JobView, memory: &Memory| match step(job, None, memory) {
        Step::Wait { why, .. } => why.holds.into_iter().next(),
        _ => None,
    };
    let hold = asked(&gone, &memory).unwrap();
    let (id, answer) = hold.answers[0].split_once('=').unwrap();
    assert_eq!((id, answer), (hold.id.as_str(), "abandon"));
    for (id, answer) in [("journal-other", "abandon"), (id, "none"), ("", "abandon")] {
        let other = JobView { answers: Answers::one(id, answer), ..gone.clone() };
        assert_eq!(asked(&other, &memory), Some(hold.clone()), "{id}={answer}");
    }
    let told = JobView { answers: Answers::one(id, answer), ..gone };
    assert_eq!(step(&told, None, &memory), Step::CancelUnjournaled { batch_id: "batch-1".into() });
    memory.cancelled.insert("batch-1".into());
    let Step::Open(end) = step(&told, None, &memory) else { panic!("it goes on") };
    let commit = end.commit.clone().unwrap();
    assert_eq!((commit.outcome, commit.reason.as_str()), (Outcome::Failed, "JournalLost"));
    assert_eq!((commit.requests.total, commit.requests.missing), (4, 4));
    assert!(commit.message.contains("told to stop (batch-1)"), "{}", commit.message);
    // The provider cannot cancel it, or it is not this work's.
    memory.not_stopped.insert("batch-1".into());
    let Step::Open(left) = step(&told, None, &memory) else { panic!("it goes on") };
    let message = left.commit.unwrap().message;
    assert!(message.contains("not told to stop, and may run on and cost: batch-1"), "{message}");
    assert!(!message.contains("were told to stop"), "{message}");
    assert!(end.is_abandoned() && end.work_id != "w" && end.owner == told.owner);
    assert!(matches!(step(&told, Some(&end), &memory), Step::Write | Step::LookForManifest));
    // Without what status says of the work nothing can be written in its place.
    let unknown = JobView { remembered: None, ..told };
    assert!(
        matches!(step(&unknown, None, &memory), Step::Wait { why, .. } if why.holds.is_empty() && why.blocked.is_some())
    );
}

#[test]
fn what_was_turned_away_and_may_have_a_twin_in_a_list_that_nobody_can_search_is_asked_about() {
    let journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    let seen =
        PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected: Some((Refusal::Capacity, "full".into())) };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen: seen.clone() });
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: None });
    let Step::Wait { why, .. } = step(&job(), Some(&journal), &memory) else { panic!("nobody is asked") };
    let hold = &why.holds[0];
    assert!(hold.message.contains("batch-1 was turned away (full)"), "{}", hold.message);
    assert_eq!(hold.answers, ["unknown-intent-1=none", "unknown-intent-1=adopt:BATCH_ID"]);
    let said = |answer: &str| JobView { answers: Answers::one(&hold.id, answer), ..job() };
    let Step::Swap(next) = step(&said("adopt:batch-2"), Some(&journal), &memory) else { panic!("not adopted") };
    assert_eq!(next.shards[0].batch_in_flight(), Some("batch-2"));
    memory.looks.insert("batch-2".into(), PollResult { at: NOW, seen });
    assert!(
        matches!(step(&said("adopt:batch-2"), Some(&next), &memory), Step::Wait { why, .. } if why.holds.len() == 1),
        "it was turned away too, and is not recorded over and over"
    );
    assert_eq!(step(&said("none"), Some(&journal), &memory), deletes_its_file());
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: Some(vec![]) });
    assert!(matches!(step(&job(), Some(&journal), &memory), Step::DeleteFiles { must: false, .. }), "it was searched");

    let mut long = journal.clone();
    let attempt = long.shards[0].attempt.as_mut().unwrap();
    attempt.payload = Payload::file("f".repeat(150));
    let no = "n".repeat(512);
    let seen = PolledState::Ended { state: BatchEnd::Failed, done: 0, rejected: Some((Refusal::Capacity, no)) };
    memory.looks.insert("batch-1".into(), PollResult { at: NOW, seen });
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: None });
    let Step::Wait { why, .. } = step(&job(), Some(&long), &memory) else { panic!("nobody is asked") };
    let message = &why.holds[0].message;
    assert!(message.len() <= 1024 && message.ends_with("are sent, and paid, anew"), "{} {message}", message.len());
}

/// Four shards whose batches the provider does not know any more.
fn lost(n: usize) -> (Journal, Memory) {
    let mut journal = journal(owner("j", "u"), submitted());
    let mut memory = memory();
    let shard = journal.shards[0].clone();
    journal.shards.clear();
    for i in 0..n {
        let (mut shard, batch_id) = (shard.clone(), format!("batch-{i}"));
        let attempt = shard.attempt.as_mut().unwrap();
        (attempt.intent_id, attempt.payload) = (format!("{i:08}-intent"), Payload::file(format!("file-{i}")));
        attempt.state = AttemptState::Submitted { batch_id: batch_id.clone(), at: 0 };
        journal.shards.push(shard);
        memory.looks.insert(batch_id, PollResult { at: NOW, seen: PolledState::NotFound });
        memory.deleted.insert(format!("file-{i}"));
    }
    (journal, memory)
}

fn is_revoked(journal: &Journal, shard: usize) -> bool {
    matches!(journal.shards[shard].attempt.as_ref().unwrap().state, AttemptState::Revoked { .. })
}

/// Answers as a person annotates them, applied until there is nothing left to do.
fn answered(journal: &Journal, memory: &Memory, annotation: &str) -> (Journal, Step) {
    let told = JobView { answers: Answers::parse(annotation), suspend: true, ..job() };
    let mut journal = journal.clone();
    loop {
        match step(&told, Some(&journal), memory) {
            Step::Swap(next) => journal = next,
            step => return (journal, step),
        }
    }
}

#[test]
fn one_annotation_answers_hundreds_of_questions_and_none_that_is_asked_later() {
    let (journal, mut memory) = lost(300);
    let (sent, _) = answered(&journal, &memory, "lost-*=resend");
    assert!((0..300).all(|shard| is_revoked(&sent, shard)));
    // The first of them is sent again, and lost again.
    let mut again = sent.clone();
    let attempt = again.shards[0].attempt.as_mut().unwrap();
    (attempt.number, attempt.intent_id) = (2, "99999999-intent".into());
    attempt.state = AttemptState::Submitted { batch_id: "batch-x".into(), at: 0 };
    memory.looks.insert("batch-x".into(), PollResult { at: NOW, seen: PolledState::NotFound });
    let (kept, step) = answered(&again, &memory, "lost-*=resend");
    let Step::Wait { why, .. } = step else { panic!("{step:?}") };
    assert!(why.holds.len() == 1 && !is_revoked(&kept, 0), "an answer that was heard is not heard again");
    // A person who takes it back can give it again.
    let (taken_back, _) = answered(&kept, &memory, "");
    let (resent, _) = answered(&taken_back, &memory, "lost-*=resend");
    assert!(is_revoked(&resent, 0));
}

#[test]
fn several_answers_stand_in_one_annotation_and_each_is_for_its_question() {
    let (journal, memory) = lost(3);
    let (next, step) = answered(&journal, &memory, "lost-00000000=resend, lost-00000002=lost");
    assert!(is_revoked(&next, 0) && next.shards[2].settled().is_some());
    let Step::Wait { why, .. } = step else { panic!("{step:?}") };
    let open: Vec<&str> = why.holds.iter().map(|hold| hold.id.as_str()).collect();
    assert_eq!(open, ["lost-00000001"]);
}

#[test]
fn what_is_misspelt_answers_nothing_and_is_named() {
    let (journal, memory) = lost(2);
    let annotation = "lost-*=resned,lots-*=resend,lost-00000000=none,lost-7=lost,resend,unknown-*=adopt:b";
    let (next, step) = answered(&journal, &memory, annotation);
    assert_eq!(next, journal, "nothing is done");
    let told = JobView { answers: Answers::parse(annotation), suspend: true, ..job() };
    let observed =
        Observed { now: NOW, nonce: "n", timing: &TIMING, job: &told, journal: Some(&journal), memory: &memory };
    let status = project(&observed, &BatchJobStatus::default(), Some(1), &step).unwrap();
    let held = status.conditions.iter().find(|c| c.type_ == "Held").unwrap();
    insta::assert_snapshot!(held.message, @"the provider does not know batch batch-0 under this credential; put back the credential of the account that it runs in; or give its answers up ('lost'); or, if it does not exist, have its requests sent, and paid, again ('resend'). Answer with `kubectl -n n annotate --overwrite bjob j llmbatch.dev/resolve=lost-00000000=lost` or `kubectl -n n annotate --overwrite bjob j llmbatch.dev/resolve=lost-00000000=resend`. 2 questions are open: one annotation may hold several answers, apart by commas; all that are open now are answered with `kubectl -n n annotate --overwrite bjob j 'llmbatch.dev/resolve=lost-*=lost'` or `kubectl -n n annotate --overwrite bjob j 'llmbatch.dev/resolve=lost-*=resend'`. The annotation `llmbatch.dev/resolve` has what answers nothing: 'resend' is not ID=ANSWER; 'lost-00000000=none': the answers are lost, resend; 'lost-7=lost': no open question has this id; 'lost-*=resned': the answers are lost, resend; 'lots-*=resend': no open question has this id; and 1 more");
}

#[test]
fn the_question_of_a_lost_reply_says_that_nothing_is_sent_again_where_the_job_is_to_stop() {
    let mut journal = journal(owner("j", "u"), Some(AttemptState::Intended));
    let mut memory = memory();
    memory.searches.insert("intent-1".into(), Search { began: NOW, found: None });
    let asks = |job: &JobView, journal: &Journal| match step(job, Some(journal), &memory) {
        Step::Wait { why, .. } => why.holds[0].message.clone(),
        other => panic!("nobody is asked: {other:?}"),
    };
    assert!(asks(&job(), &journal).ends_with("answer 'none', and its requests are sent, and paid, anew"));
    let told = |stop| JobView { stop: Some(stop), ..job() };
    let asked = asks(&told(StopPolicy::Drain), &journal);
    assert!(asked.ends_with("answer 'none', and its requests are not sent again, for the job is to stop"), "{asked}");
    journal.out_of_time_since = Some(NOW);
    for job in [told(StopPolicy::Cancel), JobView { deadline: Some(NOW), ..job() }] {
        assert!(asks(&job, &journal).ends_with("are not sent again, for the job is to stop"), "{:?}", job.stop);
    }
}
