//! Ids: UUIDv7 (RFC 9562), whose time is the injected clock's and not the machine's.

use std::sync::atomic::{AtomicU32, Ordering};

use uuid::{Builder, Uuid};

use crate::clock::Timestamp;
use crate::vault::random;

/// A new id. Those that a process makes within one millisecond are in the order of their making, so
/// that lists sorted by id are in order of time.
pub fn new(now: Timestamp) -> Uuid {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let mut bytes = random::<10>();
    // 26 bits in front of the random ones; the version and the variant overwrite the highest bits
    // of the first and the third byte.
    bytes[0] = (number >> 22) as u8;
    bytes[1] = (number >> 14) as u8;
    bytes[2] = (number >> 8) as u8 & 0x3f;
    bytes[3] = number as u8;
    let millis = u64::try_from(now.millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

/// The id that is before all that are made from `moment` on, and after all made earlier.
pub fn first_of(moment: Timestamp) -> Uuid {
    let millis = u64::try_from(moment.millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::{first_of, new};
    use crate::clock::Timestamp;

    #[test]
    fn ids_tell_the_injected_time_and_keep_the_order_of_their_making() {
        let now = Timestamp::from_millis(1_234_567_890_123);
        let ids: Vec<_> = (0..5000).map(|_| new(now)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        for id in ids {
            assert_eq!(id.get_version_num(), 7);
            let (seconds, nanos) = id.get_timestamp().expect("a time").to_unix();
            assert_eq!((seconds, nanos), (1_234_567_890, 123_000_000));
        }
    }
    #[test]
    fn a_moment_is_a_border_between_ids() {
        let [before, moment] = [1_234_567_890_122, 1_234_567_890_123].map(Timestamp::from_millis);
        for _ in 0..5000 {
            let border = first_of(moment).to_string();
            assert!(new(before).to_string() < border && border <= new(moment).to_string());
        }
    }
}
