//! A file of the node's log after a crash: what holds is read back to the byte, and what does not is
//! refused or left out, never guessed.

use totoro_node::store::fuzz::{Parts as Op, Taken, read, write};

use crate::Target;
use crate::parts::Parts;

/// A file's bytes; the same bytes again as the ops of a well-formed file, which is then cut and changed.
pub(crate) const TARGET: Target = Target {
    name: "node-log",
    run,
    seeds,
};

const FILE: u32 = 3;

fn run(data: &[u8]) {
    raw(data);
    made(data);
}

fn raw(data: &[u8]) {
    for (seq, newest) in [(Some(1), true), (None, false), (None, true)] {
        if let Ok(taken) = read(FILE, data, seq, newest) {
            holds(data, &taken);
        }
    }
}

/// What was taken is exactly what a writer would have written.
fn holds(bytes: &[u8], taken: &Taken) {
    if taken.end == 0 {
        assert!(taken.frames.is_empty());
        return;
    }
    let end = usize::try_from(taken.end).expect("in memory");
    let [first, next] = taken.seqs;
    assert_eq!(first + taken.frames.len() as u64, next);
    assert!(taken.live <= taken.end);
    let written = write(FILE, first, &taken.frames).expect("ops that were read");
    // The header also says which file is the oldest, which is not of this file.
    assert_eq!(written[32..], bytes[32..end]);
    // Cut there, nothing is missing.
    let again = read(FILE, &bytes[..end], Some(first), true).expect("what holds");
    assert_eq!(&again, taken);
}

fn made(data: &[u8]) {
    let mut parts = Parts(data);
    let (change, cut) = (parts.number(), parts.number());
    let mut frames = Vec::new();
    while !parts.is_empty() && frames.len() < 16 {
        let count = parts.byte() % 6;
        let op = |parts: &mut Parts<'_>| -> Op {
            let kind = 1 + parts.byte() % 5;
            let flag = parts.byte() % 8;
            (kind, flag, parts.short().to_vec(), parts.short().to_vec())
        };
        frames.push((0..count).map(|_| op(&mut parts)).collect::<Vec<_>>());
    }
    let whole = write(FILE, 7, &frames).expect("kinds that there are");
    let Ok(taken) = read(FILE, &whole, Some(7), true) else {
        // Framed as it should be, and yet an op can't be: it says what it must not.
        return;
    };
    assert_eq!((taken.end, &taken.frames), (whole.len() as u64, &frames));
    holds(&whole, &taken);
    let end = usize::try_from(cut % (whole.len() as u64 + 1)).expect("in memory");
    if let Ok(part) = read(FILE, &whole[..end], Some(7), true) {
        assert!(
            taken.frames.starts_with(&part.frames),
            "a cut file has what was whole before the cut"
        );
    }
    // A byte that is another one is never taken for what was written.
    let mut changed = whole.clone();
    let at = usize::try_from((change >> 8) % whole.len() as u64).expect("in memory");
    changed[at] ^= (change as u8).max(1);
    if let Ok(part) = read(FILE, &changed, Some(7), true) {
        assert!(
            part.frames.len() < taken.frames.len() || part.end == 0 || at < 32,
            "byte {at}"
        );
        assert!(taken.frames.starts_with(&part.frames));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let put: Op = (1, 2, b"run".to_vec(), b"{\"a\":1}".to_vec());
    let event: Op = (3, 0, 5_u64.to_le_bytes().to_vec(), b"{}".to_vec());
    let drop: Op = (4, 0, Vec::new(), 5_u64.to_le_bytes().to_vec());
    let remove: Op = (2, 2, b"run".to_vec(), Vec::new());
    let had: Op = (1, 0, b"had".to_vec(), b"5".to_vec());
    let frames = [
        vec![put, event.clone()],
        vec![drop, remove],
        vec![event, had],
    ];
    let whole = write(FILE, 1, &frames).expect("kinds that there are");
    let cut = whole[..whole.len() - 5].to_vec();
    let mut room = whole.clone();
    room.extend([0; 64]);
    // For the other reading: two frames of ops by their parts.
    let mut parts = vec![9; 16];
    for ops in &frames[..2] {
        parts.push(ops.len() as u8);
        for (kind, flag, key, value) in ops {
            parts.extend([kind - 1, *flag, key.len() as u8]);
            parts.extend(key);
            parts.push(value.len() as u8);
            parts.extend(value);
        }
    }
    vec![whole, cut, room, parts]
}
