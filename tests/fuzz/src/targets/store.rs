//! What the control plane's store reads from its files after a crash.

use totoro_control::store::Position;
use totoro_control::store::fuzz::{Parts as Change, record, records, seal, sum, sum_of};

use crate::Target;
use crate::parts::Parts;

/// A file of the log; the same bytes again as changes of well-formed records, as a seal, and as a sum.
pub(crate) const TARGET: Target = Target {
    name: "store",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let (found, rest) = records(data);
    let mut written = Vec::new();
    for read in &found {
        let Some(changes) = &read.changes else {
            return;
        };
        written.extend(record(read.revision, read.day, changes));
    }
    assert_eq!(
        written,
        data[..data.len() - rest],
        "what was read is what was written"
    );
    made(data);
    if let Some(written) = seal(data) {
        assert_eq!(seal(&written).as_ref(), Some(&written));
    }
    if let Some(text) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| Some((text, sum(text)?)))
    {
        assert_eq!(text.0, text.1, "a sum has one text");
    }
    if let Some(position) = Position::decode(data) {
        assert_eq!(position.encode(), data);
    }
}

fn made(data: &[u8]) {
    let mut parts = Parts(data);
    let (change, cut) = (parts.number(), parts.number());
    let mut all: Vec<(u64, Vec<Change>)> = Vec::new();
    while !parts.is_empty() && all.len() < 16 {
        let revision = parts.number();
        let changes = (0..parts.byte() % 6).map(|_| {
            let key = parts.short().to_vec();
            let value = (parts.byte() % 4 > 0).then(|| parts.short().to_vec());
            (key, revision, value)
        });
        let changes = changes.collect();
        all.push((revision, changes));
    }
    let whole: Vec<u8> = all
        .iter()
        .flat_map(|(revision, changes)| record(*revision, 7, changes))
        .collect();
    let read = |bytes: &[u8]| {
        let (found, rest) = records(bytes);
        let found = found
            .into_iter()
            .map(|read| (read.revision, read.changes.expect("well-formed")));
        (found.collect::<Vec<_>>(), rest)
    };
    assert_eq!(read(&whole), (all.clone(), 0));
    let end = usize::try_from(cut % (whole.len() as u64 + 1)).expect("in memory");
    assert!(all.starts_with(&read(&whole[..end]).0));
    if !whole.is_empty() {
        let mut changed = whole.clone();
        let at = usize::try_from((change >> 8) % whole.len() as u64).expect("in memory");
        changed[at] ^= (change as u8).max(1);
        let (found, rest) = read(&changed);
        assert!(
            all.starts_with(&found) && found.len() < all.len() && rest > 0,
            "byte {at}"
        );
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let put: Change = (b"invite/inv_1".to_vec(), 5, Some(b"{\"id\":1}".to_vec()));
    let gone: Change = (b"invite/inv_2".to_vec(), 5, None);
    let mut log = record(0, 7, &[]);
    log.extend(record(5, 7, &[put, gone]));
    let cut = log[..log.len() - 3].to_vec();
    let mut room = log.clone();
    room.extend([0; 64]);
    let mut parts = vec![9; 16];
    parts.extend([
        5, 0, 0, 0, 0, 0, 0, 0, 2, 1, b'a', 1, 2, b'v', b'w', 1, b'b', 0,
    ]);
    let sealed =
        br#"{"schema":5,"revision":9,"files":[{"name":"wal.0000000001","bytes":7,"blake3":"00"}]}"#;
    vec![
        log,
        cut,
        room,
        parts,
        sum_of(b"k", 7).into_bytes(),
        sealed.to_vec(),
    ]
}
