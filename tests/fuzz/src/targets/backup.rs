//! Backups: an operator may restore any file.

use totoro_control::store::dump::{Decoder, DumpError, Encoder, Frame, Header, MAX_PIECE};
use totoro_control::store::{MAX_KEY, MAX_VALUE, Position, Versioned};

use crate::Target;
use crate::parts::Parts;

/// A backup's bytes; the same bytes again as what is in a well-formed one.
pub(crate) const TARGET: Target = Target {
    name: "backup",
    run,
    seeds,
};

/// All frames, fed in pieces of such a size.
fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, DumpError> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
    }
    decoder.complete()?;
    Ok(frames)
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let (mut out, mut encoder) = (Vec::new(), None);
    for frame in frames {
        match frame {
            Frame::Header(header) => encoder = Some(Encoder::begin(header, &mut out)),
            Frame::Entry(entry) => encoder.as_mut().expect("a header").entry(entry, &mut out),
            Frame::File(name) => encoder.as_mut().expect("a header").file(name, &mut out),
            Frame::Data(piece) => encoder.as_mut().expect("a header").data(piece, &mut out),
            Frame::End(_) => drop(encoder.take().expect("one end").end(&mut out)),
        }
    }
    out
}

fn run(data: &[u8]) {
    let whole = decode(data, data.len());
    // How it comes in does not matter.
    assert_eq!(decode(data, 1), whole);
    assert_eq!(decode(data, 7), whole);
    if let Ok(frames) = whole {
        checked(&frames);
        assert_eq!(
            decode(&encode(&frames), 64).expect("what was written"),
            frames
        );
    }
    made(data);
}

/// What is in a backup may be restored as it is.
fn checked(frames: &[Frame]) {
    let mut last = None::<&[u8]>;
    for frame in frames {
        match frame {
            Frame::Entry((key, found)) => {
                assert!(last.is_none_or(|last| last < &key[..]), "keys rise");
                assert!(key.len() <= MAX_KEY + Position::LEN && found.value.len() <= MAX_VALUE);
                last = Some(key);
            }
            Frame::File(name) => {
                assert!(
                    name.split('/')
                        .all(|part| !part.is_empty() && !part.starts_with('.')),
                    "{name}"
                );
                assert!(!name.starts_with('/') && !name.contains('\0') && !name.contains('\\'));
            }
            Frame::Data(piece) => assert!(piece.len() <= MAX_PIECE),
            Frame::Header(_) | Frame::End(_) => {}
        }
    }
    assert!(matches!(frames, [Frame::Header(_), .., Frame::End(_)]));
}

fn header() -> Header {
    Header {
        schema: 5,
        revision: 9,
        day: 20_000,
        generation: 1_700_000_000_000,
        created_at: 1_700_000_000,
        version: "0.1.0".to_owned(),
        secret_check: "c".to_owned(),
    }
}

fn backup(entries: &[(Vec<u8>, Vec<u8>)], file: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&header(), &mut out);
    for (key, value) in entries {
        let found = Versioned {
            revision: 5,
            value: value.clone(),
        };
        encoder.entry(&(key.clone(), found), &mut out);
    }
    if !file.is_empty() {
        encoder.file("audit/0000000001.ndjson", &mut out);
        encoder.data(file, &mut out);
    }
    let summary = encoder.end(&mut out);
    assert_eq!(summary.bytes, out.len() as u64);
    out
}

fn made(data: &[u8]) {
    let mut parts = Parts(data);
    let change = parts.number();
    let mut entries = Vec::new();
    for _ in 0..parts.byte() % 8 {
        entries.push((parts.short().to_vec(), parts.short().to_vec()));
    }
    entries.sort();
    entries.dedup_by(|a, b| a.0 == b.0);
    let whole = backup(&entries, parts.0);
    checked(&decode(&whole, 100).expect("a backup of ours"));
    for end in [0, 16, whole.len() / 2, whole.len() - 1] {
        assert!(decode(&whole[..end], 100).is_err(), "cut at {end}");
    }
    let mut changed = whole.clone();
    let at = usize::try_from((change >> 8) % whole.len() as u64).expect("in memory");
    changed[at] ^= (change as u8).max(1);
    assert!(decode(&changed, 100).is_err(), "byte {at}");
}

fn seeds() -> Vec<Vec<u8>> {
    let entries = [
        (b"a/1".to_vec(), b"{}".to_vec()),
        (b"b/2".to_vec(), b"{\"x\":1}".to_vec()),
    ];
    let whole = backup(&entries, b"line\n");
    let cut = whole[..whole.len() - 9].to_vec();
    vec![
        whole,
        backup(&[], b""),
        cut,
        [&[7; 8][..], &[2, 1, b'a', 1, b'v', 1, b'b', 0], b"file"].concat(),
    ]
}
