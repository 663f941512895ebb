//! The room of a ledger is shared by namespace.

use super::*;

/// A reservation that is so large that some hundred fill a ledger.
fn large(namespace: &str) -> Reservation {
    Reservation { job_uid: "u".repeat(6_000), ..wants(namespace, "1", MONDAY, 1) }
}

/// Reserves for a namespace until there is no room. Returns the number of its reservations.
fn fill(ledger: &mut Ledger, namespace: &str, most: usize) -> usize {
    let key = |n| shard_key(&format!("{namespace}/w"), n);
    (0..most).take_while(|n| ledger.reserve(&key(*n), large(namespace), None, &[]).is_ok()).count()
}

fn weight(ledger: &Ledger) -> usize {
    ledger.weights().values().sum()
}

#[test]
fn a_namespace_takes_as_much_as_it_leaves_free() {
    let mut ledger = Ledger::default();
    let first = fill(&mut ledger, "a", 10_000);
    let half = SHARED_ROOM / 2 - 10_000..=SHARED_ROOM / 2 + 10_000;
    assert!(half.contains(&weight(&ledger)), "{first} take {}", weight(&ledger));
    let second = fill(&mut ledger, "b", 10_000);
    assert!((first / 3..=first).contains(&second), "{second} beside {first}");
    assert_eq!(fill(&mut ledger, "a", 1), 1, "its own are there");
    let one_more = |ledger: &mut Ledger| ledger.reserve("a/v/0", large("a"), None, &[]);
    assert_eq!(one_more(&mut ledger), Err(Unreserved::Full));
    for n in 0..first / 2 {
        ledger.settle(&shard_key("a/w", n), 1, None, day(MONDAY));
    }
    assert_eq!(one_more(&mut ledger), Ok(()), "some of its batches ended");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_namespace_without_a_reservation_gets_one_whatever_the_others_hold(
        others in prop::collection::vec((0..40u8, 1..200usize, any::<bool>()), 1..40),
    ) {
        let mut ledger = Ledger::default();
        for (namespace, most, is_settled) in others {
            let namespace = format!("n{namespace}");
            fill(&mut ledger, &namespace, most);
            if is_settled {
                ledger.settle(&shard_key(&format!("{namespace}/w"), 0), 1, None, day(MONDAY));
            }
            prop_assert!(weight(&ledger) <= ROOM, "{}", weight(&ledger));
            prop_assert_eq!(ledger.clone().reserve("quiet/w/0", wants("quiet", "1", MONDAY, 1), None, &[]), Ok(()));
        }
    }
}

#[test]
fn the_namespace_with_the_most_settled_works_loses_its_oldest() {
    let mut ledger = Ledger::default();
    let mut settle = |namespace: &str, work: &str, rev| {
        let key = shard_key(&format!("{namespace}/{work}"), 0);
        ledger.reserve(&key, wants(namespace, "1", MONDAY, rev), None, &[]).unwrap();
        assert!(ledger.settle(&key, rev, None, day(MONDAY)));
        ledger.settled.keys().cloned().collect::<Vec<_>>()
    };
    settle("a", "quiet", 1);
    settle("loud", "a-late-one", 9);
    for n in 0..SETTLED_WORKS - 2 {
        settle("loud", &format!("w{n}"), 2);
    }
    let known = settle("loud", "last", 9);
    assert_eq!(known.len(), SETTLED_WORKS);
    let has = |known: &[String], work: &str| known.iter().any(|of| of == work);
    assert!(has(&known, "a/quiet") && has(&known, "loud/a-late-one") && has(&known, "loud/last"), "{known:?}");
    let known = settle("z", "w", 1);
    assert!(known.len() == SETTLED_WORKS && has(&known, "z/w") && has(&known, "a/quiet"));
}
