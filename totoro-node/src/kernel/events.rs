//! The ring buffer: surplus connections are destroyed here, at once, and refusals remembered; the rest
//! goes to the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use totoro_ebpf::abi;

use super::load::Shared;
use super::{Context, Event, Result};

/// Events that wait for the daemon. They are hints: what does not fit is dropped, and counted.
const QUEUE: usize = 4096;

/// How often the ring is looked into unasked. The programs wake us for what we must act upon, and when
/// much is there.
const LOOKS: Duration = Duration::from_secs(1);

/// Starts the reading task.
pub(super) fn start(ring: RingBuf<MapData>, shared: Arc<Shared>) -> Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    #[expect(
        unsafe_code,
        reason = "the ring's descriptor is registered with the reactor"
    )]
    // SAFETY: the ring owns its descriptor for as long as it lives, and hands out no other.
    let ring = unsafe { AsyncFd::register(ring) }
        .map_err(std::io::Error::from)
        .on("watch", "EVENTS")?;
    tokio::spawn(read(ring, shared, sender));
    Ok(receiver)
}

async fn read(
    mut ring: AsyncFd<RingBuf<MapData>>,
    shared: Arc<Shared>,
    sender: mpsc::Sender<Event>,
) {
    let mut looked = Instant::now();
    loop {
        let read_on = match tokio::time::timeout(LOOKS, ring.readable_mut()).await {
            Ok(Ok(mut ready)) => {
                let read_on = drain(ready.get_inner_mut(), &shared, &sender);
                ready.clear_ready();
                read_on
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the event ring can't be watched any more; the sweeps go on");
                return;
            }
            Err(_) => drain(ring.get_mut(), &shared, &sender),
        };
        if !read_on {
            return;
        }
        if looked.elapsed() >= LOOKS {
            looked = Instant::now();
            // So that it is known when some were lost, and not only when somebody asks.
            if let Err(error) = shared.losses.look() {
                tracing::warn!(error = error.whole(), "lost events can't be counted");
            }
        }
    }
}

/// Reads what is in the ring; whether anybody still listens.
fn drain(ring: &mut RingBuf<MapData>, shared: &Shared, sender: &mpsc::Sender<Event>) -> bool {
    while let Some(item) = ring.next() {
        let Some(event) = decode(&item) else {
            tracing::warn!(bytes = item.len(), "an event of another size; skipped");
            continue;
        };
        drop(item);
        match event.kind {
            // Done with here: they take no place in the queue.
            abi::EVENT_SURPLUS => shared.destroy_surplus(&event),
            abi::EVENT_REFUSED => shared.recent.push(&event),
            _ => {
                if let Err(TrySendError::Full(_)) = sender.try_send(event) {
                    shared.losses.dropped();
                }
            }
        }
    }
    !sender.is_closed()
}

/// Forwards what a debug build of the object logs (aya-log); does nothing for one that does not.
pub(super) fn start_logs(ebpf: &mut aya::Ebpf) {
    if ebpf.map("AYA_LOGS").is_none() {
        return;
    }
    let logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the programs' logs can't be read");
            return;
        }
    };
    #[expect(
        unsafe_code,
        reason = "the logger's descriptor is registered with the reactor"
    )]
    // SAFETY: the logger owns its descriptor for as long as it lives, and hands out no other.
    let Ok(mut logger) = (unsafe { AsyncFd::register(logger) }) else {
        return;
    };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}

/// Reads an event of exactly the ABI's size.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    #[expect(unsafe_code, reason = "reading a Pod from bytes")]
    // SAFETY: as many bytes as the type has, read unaligned; it is integers only.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Event>()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use totoro_ebpf::abi::Event;

    use super::decode;

    /// An event as the kernel writes it, field by field of its layout.
    fn written(words: &[u64; 6], ends: &[u8; 32], event: &Event) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(ends);
        bytes.extend(event.remote_port.to_ne_bytes());
        bytes.extend(event.port.to_ne_bytes());
        for word in [event.kind, event.reason, event.tenant] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([event.proto, 0, 0, 0]);
        bytes.extend(event.ifindex.to_ne_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn an_event_is_read_as_it_is_laid_out(
            words in any::<[u64; 6]>(),
            ends in any::<[u8; 32]>(),
            ports in any::<(u16, u16)>(),
            (kind, reason, tenant, ifindex) in any::<(u32, u32, u32, u32)>(),
            proto in any::<u8>(),
        ) {
            let event = Event {
                at_ns: words[0],
                cookie: words[1],
                lease: words[2],
                duration_ns: words[3],
                bytes_in: words[4],
                bytes_out: words[5],
                remote: *ends.first_chunk().expect("32 bytes"),
                local: *ends.last_chunk().expect("32 bytes"),
                remote_port: ports.0,
                port: ports.1,
                kind,
                reason,
                tenant,
                proto,
                pad: [0; 3],
                ifindex,
            };
            prop_assert_eq!(decode(&written(&words, &ends, &event)), Some(event));
        }

        #[test]
        fn nothing_of_another_size_is_one(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode(&bytes).is_some(), bytes.len() == size_of::<Event>());
        }
    }
}
