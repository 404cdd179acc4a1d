//! What is written is read back; what was changed, cut or made up is refused.

use super::*;

fn header() -> Header {
    Header {
        schema: 1,
        revision: 7,
        day: 3,
        generation: 9,
        created_at: 11,
        version: "0".to_owned(),
        secret_check: "c".to_owned(),
    }
}

fn frames() -> Vec<Frame> {
    let entry = |key: &str, revision, length| {
        let value = vec![b'v'; length];
        Frame::Entry((key.as_bytes().to_vec(), Versioned { revision, value }))
    };
    vec![
        Frame::Header(header()),
        entry("a", 1, 0),
        entry("b/\u{ff}", 5, MAX_VALUE),
        Frame::File("audit/2026-01-01.log".to_owned()),
        Frame::Data(vec![0; MAX_PIECE]),
        Frame::Data(vec![1; 3]),
        Frame::File("control.toml".to_owned()),
    ]
}

fn encode(frames: &[Frame]) -> (Vec<u8>, Summary) {
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&header(), &mut out);
    for frame in frames {
        match frame {
            Frame::Header(_) | Frame::End(_) => {}
            Frame::Entry(entry) => encoder.entry(entry, &mut out),
            Frame::File(name) => encoder.file(name, &mut out),
            Frame::Data(piece) => encoder.data(piece, &mut out),
        }
    }
    let summary = encoder.end(&mut out);
    (out, summary)
}

/// Decodes in pieces of this size.
fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<Frame>, Summary), DumpError> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
    }
    Ok((frames, decoder.complete()?))
}

#[test]
fn what_is_written_is_read_in_pieces_of_any_size() {
    let (bytes, summary) = encode(&frames());
    let counts = (summary.entries, summary.files, summary.bytes);
    assert_eq!(counts, (2, 2, bytes.len() as u64));
    for piece in [1, 7, 4096, bytes.len()] {
        let (mut read, told) = decode(&bytes, piece).unwrap();
        assert_eq!(read.pop(), Some(Frame::End(summary.clone())));
        assert_eq!((read, told), (frames(), summary.clone()));
    }
}

#[test]
fn every_changed_byte_and_every_cut_is_noticed() {
    let (bytes, _) = encode(&frames());
    let places = (0..400).chain((400..bytes.len()).step_by(977));
    let (mut changed, mut cut) = (0, 0);
    for at in places.chain(bytes.len() - 60..bytes.len()) {
        for flip in [1_u8, 0x80] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            assert!(decode(&bad, 8192).is_err(), "byte {at} ^ {flip}");
            changed += 1;
        }
        let error = decode(&bytes[..at], 8192).unwrap_err();
        assert_eq!(error, DumpError::Truncated(at as u64));
        cut += 1;
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(
        decode(&longer, 8192),
        Err(DumpError::Damaged { .. })
    ));
    println!("{changed} flips and {cut} cuts, all noticed");
}

#[test]
fn strangers_and_the_future_are_told_apart() {
    assert_eq!(decode(b"PK\x03\x04", 9).unwrap_err(), DumpError::Foreign);
    assert_eq!(decode(b"", 9).unwrap_err(), DumpError::Truncated(0));
    let newer = b"totoro-backup 2\n";
    assert_eq!(decode(newer, 99).unwrap_err(), DumpError::Newer);
}

#[test]
fn what_could_write_elsewhere_or_is_out_of_order_is_refused() {
    for name in [
        "../x",
        "/etc/passwd",
        "audit/../../x",
        "audit//x",
        "audit/a/b",
        ".hidden",
        "audit/.x",
        "",
        "a\0b",
    ] {
        let (bytes, _) = encode(&[Frame::File(name.to_owned())]);
        assert!(decode(&bytes, 4096).is_err(), "{name:?}");
    }
    let mut disordered = frames();
    disordered.swap(1, 2);
    let mut late = frames();
    late.swap(2, 3);
    let orphan = vec![Frame::Data(vec![1])];
    for frames in [disordered, late, orphan] {
        let (bytes, _) = encode(&frames);
        let error = decode(&bytes, 4096).unwrap_err();
        assert!(matches!(error, DumpError::Damaged { .. }), "{error}");
    }
}
