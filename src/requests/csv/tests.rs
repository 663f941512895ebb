use super::*;

async fn rows(text: &[u8], limit: usize) -> Vec<(u64, Result<Vec<String>, String>)> {
    let mut records = RowReader::new(text, limit, b',');
    let mut out = vec![];
    while let Some(record) = records.next().await.unwrap() {
        let fields = record.fields.and_then(|f| f.iter());
        out.push((record.line, fields.map(|f| f.into_iter().map(String::from).collect())));
    }
    out
}

fn row(line: u64, fields: &[&str]) -> (u64, Result<Vec<String>, String>) {
    (line, Ok(fields.iter().map(|f| f.to_string()).collect()))
}

#[tokio::test]
async fn rows_are_read_as_people_write_them() {
    let text = b"id,text\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n\r\n2,\n\n3,\"\"";
    let wanted = [row(1, &["id", "text"]), row(2, &["1", "a, \"b\"\r\nc"]), row(5, &["2", ""]), row(7, &["3", ""])];
    assert_eq!(rows(text, 100).await, wanted);
    assert_eq!(rows(b"", 100).await, []);
    assert_eq!(rows(b"\r\n\n", 100).await, []);
    assert_eq!(rows("ä,ö\n".as_bytes(), 100).await, [row(1, &["ä", "ö"])]);
}

#[tokio::test]
async fn a_row_is_told_by_the_line_where_an_editor_shows_it() {
    for end in ["\n", "\r", "\r\n"] {
        let text = format!("id,text{end}1,\"a{end}b\"{end}{end}2,x{end},{end}3,\"{end}{end}\"{end}4,y");
        let lines: Vec<u64> = rows(text.as_bytes(), 100).await.into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 2, 5, 6, 7, 10], "{end:?}");
    }
}

#[tokio::test]
async fn fields_are_separated_as_told() {
    let mut records = RowReader::new(&b"a;\"b;c\"\nd;\"e\"x;\n;;\n"[..], 100, b';').of("UTF-16", 3);
    let record = records.next().await.unwrap().unwrap();
    assert_eq!((record.line, record.fields.unwrap().iter().unwrap()), (3, vec!["a", "b;c"]));
    let refused = records.next().await.unwrap().unwrap().fields.unwrap_err();
    assert!(refused.contains("text follows a quoted field"), "{refused}");
    assert!(records.next().await.unwrap().unwrap().fields.unwrap().is_blank());
}

proptest::proptest! {
    /// Line numbers are those of an editor, for every kind of line end, within quotes too, and wherever buffers
    /// end.
    #[test]
    fn line_numbers_are_those_of_an_editor(
        rows in proptest::collection::vec(("[a-z]{1,3}", proptest::collection::vec(proptest::sample::select(vec!["\n", "\r", "\r\n", "x", ","]), 0..6)), 1..40),
        ends in proptest::collection::vec(proptest::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\n\r\n"]), 40),
        chunk in 1usize..7,
    ) {
        let (mut text, mut wanted) = (String::new(), vec![]);
        for ((first, second), end) in rows.iter().zip(&ends) {
            wanted.push(text.replace("\r\n", "\n").replace('\r', "\n").matches('\n').count() as u64 + 1);
            text += &format!("{first},\"{}\"{end}", second.concat());
        }
        let read = async {
            let mut records = RowReader::new(tokio_test_reader(text.as_bytes(), chunk), 1000, b',');
            let mut lines = vec![];
            while let Some(record) = records.next().await.unwrap() {
                assert!(record.fields.is_ok());
                lines.push(record.line);
            }
            lines
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        proptest::prop_assert_eq!(runtime.block_on(read), wanted, "{:?}", text);
    }
}

/// A reader that gives a few bytes at a time.
fn tokio_test_reader(text: &[u8], chunk: usize) -> impl AsyncRead + Unpin {
    let chunks: Vec<_> =
        text.chunks(chunk).map(|c| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(c))).collect();
    tokio_util::io::StreamReader::new(futures::stream::iter(chunks))
}

#[tokio::test]
async fn rows_that_cross_buffers_are_whole() {
    let long = "y".repeat(150_000);
    let text = format!("a,{long}\n\"{long}\n\",b\n");
    let with_newline = format!("{long}\n");
    assert_eq!(rows(text.as_bytes(), 200_000).await, [row(1, &["a", &long]), row(2, &[&with_newline, "b"])]);
}

#[tokio::test]
async fn faulty_rows_are_reported_and_the_next_is_read() {
    let text = format!("{}\nnext,row\n", "x".repeat(300_000));
    let read = rows(text.as_bytes(), 1000).await;
    assert!(read[0].1.as_ref().unwrap_err().contains("300001 bytes"), "{:?}", read[0]);
    assert_eq!(read[1..], [row(2, &["next", "row"])]);
    let text = format!("{}\nnext\n", ",".repeat(5000));
    let read = rows(text.as_bytes(), 1 << 20).await;
    assert!(read[0].1.as_ref().unwrap_err().contains("4096 fields"), "{:?}", read[0]);
    assert_eq!(read[1..], [row(2, &["next"])]);
    let read = rows(b"a\n\xff\xfe\nb\n", 100).await;
    assert!(read[1].1.as_ref().unwrap_err().contains("UTF-8"));
    assert_eq!(read[2], row(3, &["b"]));
    assert!(rows(b"a\n1,\"open\n", 100).await[1].1.as_ref().unwrap_err().contains("never closed"));
    let swallowed = rows(b"id,text\n1,\"open\n2,b\n3,\"good\"\n4,d\n", 100).await;
    assert!(swallowed[1].1.as_ref().unwrap_err().contains("text follows a quoted field"), "{swallowed:?}");
    let loose = rows(b"a,b\n1,5\" pipe\n2,\"\"\"\",x\n3,6\"", 100).await;
    assert_eq!(loose[1..], [row(2, &["1", "5\" pipe"]), row(3, &["2", "\"", "x"]), row(4, &["3", "6\""])]);
    assert_eq!(rows(b"5\" pipe,x\n", 100).await, [row(1, &["5\" pipe", "x"])], "no quote at all");
}

#[tokio::test]
async fn headers_name_columns_and_ragged_rows_are_refused() {
    let mut records = RowReader::new(&b"id,text,\n1,x,\n2\n"[..], 100, b',');
    let first = records.next().await.unwrap().unwrap().fields.unwrap();
    let header = Header::new(&first, b',').unwrap();
    let row = header.row(&records.next().await.unwrap().unwrap().fields.unwrap()).unwrap();
    assert_eq!(serde_json::json!(row), serde_json::json!({"id": "1", "text": "x"}));
    let ragged = header.row(&records.next().await.unwrap().unwrap().fields.unwrap()).unwrap_err();
    assert!(ragged.starts_with("begins a row of 1 fields; the header has 3; "), "{ragged}");
    let mut records = RowReader::new(&b"id,id\n"[..], 100, b',');
    let twice = Header::new(&records.next().await.unwrap().unwrap().fields.unwrap(), b',').err().unwrap();
    assert!(twice.contains("`id` twice"), "{twice}");
}

#[tokio::test]
async fn a_header_of_more_than_256_kib_is_refused() {
    let header = async |bytes: usize| {
        let text = format!("{}\n", "x".repeat(bytes));
        let mut records = RowReader::new(text.as_bytes(), 1 << 20, b',');
        Header::new(&records.next().await.unwrap().unwrap().fields.unwrap(), b',').err()
    };
    assert_eq!(header(HEAD_BYTES).await, None);
    let refused = header(HEAD_BYTES + 1).await.unwrap();
    assert_eq!(refused, "has 262145 bytes of column names; at most 256 KiB are read; is the row of names missing?");
}
