use super::*;

async fn all(text: &[u8], limit: usize) -> Vec<Result<String, u64>> {
    let mut lines = Lines::new(text, limit);
    let mut out = vec![];
    while let Some(line) = lines.next().await.unwrap() {
        out.push(match line {
            Line::Whole(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
            Line::TooLong(size) => Err(size),
        });
    }
    out
}

#[tokio::test]
async fn lines_end_as_people_end_them() {
    assert_eq!(all(b"a\r\n\nb", 10).await, [Ok("a".into()), Ok("".into()), Ok("b".into())]);
    assert_eq!(all(b"", 10).await, []);
    assert_eq!(all(b"a\n", 10).await, [Ok("a".into())]);
}

#[tokio::test]
async fn a_long_line_is_skipped_and_the_next_is_read() {
    let mut text = vec![b'x'; 300_000];
    text.extend_from_slice(b"\nnext\n");
    assert_eq!(all(&text, 1000).await, [Err(300_000), Ok("next".into())]);
    assert_eq!(all(b"12345\nab", 4).await, [Err(5), Ok("ab".into())]);
}

/// Reads the lines of `text` in several ways that have to agree. Lines of 4 MiB and more wait on the spool.
async fn spooled(text: &[u8], limit: usize) -> Vec<Result<usize, u64>> {
    let spool = std::env::temp_dir();
    let (mut held, mut kept) = (Lines::new(text, limit).spooling(&spool), Lines::new(text, limit).spooling(&spool));
    let (mut peeked, mut plain) = (Lines::new(text, limit).spooling(&spool), Lines::new(text, limit));
    let mut out = vec![];
    loop {
        let start = peeked.peek(5).await.unwrap().map(<[u8]>::to_vec);
        peeked.skip().await.unwrap();
        let line = plain.next().await.unwrap();
        assert_eq!(held.next().await.unwrap(), line);
        let kept_line = kept.next_kept().await.unwrap();
        assert_eq!(kept_line.is_some(), line.is_some());
        let Some(line) = line else { return out };
        out.push(match line {
            Line::Whole(line) => {
                assert!(line.starts_with(start.unwrap().strip_suffix(b"\r").unwrap_or(&line[..line.len().min(5)])));
                assert!(
                    kept_line.as_ref().is_some_and(|kept| matches!(kept, KeptLine::Long(_)) == (line.len() > LONG))
                );
                held.let_go();
                assert_eq!(&*kept_line.unwrap().load().await.unwrap().unwrap(), line);
                Ok(line.len())
            }
            Line::TooLong(size) => Err(size),
        });
        let offsets = [&held, &kept, &peeked].map(Lines::offset);
        assert_eq!(offsets, [plain.offset(); 3]);
    }
}

#[tokio::test]
async fn a_long_line_waits_on_the_spool_and_is_the_same() {
    let long = |bytes: usize| "x".repeat(bytes);
    let text = format!(
        "a\r\n\n{}\r\nb\n{}\n{}\nlast{}",
        long(LONG + 100_000),
        long(LONG + 3_000_000),
        long(70_000),
        long(6 << 20)
    );
    let sizes = spooled(text.as_bytes(), 8 << 20).await;
    assert_eq!(sizes, [Ok(1), Ok(0), Ok(LONG + 100_000), Ok(1), Ok(LONG + 3_000_000), Ok(70_000), Ok((6 << 20) + 4)]);
    let sizes = spooled(text.as_bytes(), 6 << 20).await;
    assert_eq!(sizes[4..], [Err(LONG as u64 + 3_000_000), Ok(70_000), Err((6 << 20) + 4)]);
    assert_eq!(spooled(b"", 10).await, []);
}

/// A tenant's store does not delay another tenant's job: a line takes its turn once all of it has arrived.
#[tokio::test]
async fn a_long_line_that_does_not_come_to_its_end_holds_up_no_other() {
    let spool = std::env::temp_dir();
    let (mut slow, store) = tokio::io::duplex(1 << 20);
    let mut stuck = Lines::new(store, LINE_LIMIT).spooling(&spool);
    let waits = tokio::spawn(async move { stuck.next().await.map(|line| line.is_some()) });
    tokio::io::AsyncWriteExt::write_all(&mut slow, &vec![b'x'; LONG + (2 << 20)]).await.unwrap();
    let text = vec![b'y'; LONG + 10];
    let mut other = Lines::new(&text[..], LINE_LIMIT).spooling(&spool);
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), other.next()).await;
    assert!(matches!(read, Ok(Ok(Some(Line::Whole(line)))) if line.len() == LONG + 10));
    other.let_go();
    drop(slow);
    assert!(waits.await.unwrap().unwrap(), "what came of it is a line");
}

#[tokio::test]
async fn offsets_say_where_lines_begin() {
    let text = format!("{}\r\nbb\n{}\nc", "a".repeat(100_000), "d".repeat(200_000));
    let mut lines = Lines::new(text.as_bytes(), 150_000);
    let mut starts = vec![lines.offset()];
    while lines.next().await.unwrap().is_some() {
        starts.push(lines.offset());
    }
    assert_eq!(starts, [0, 100_002, 100_005, 300_006, 300_007]);
}
