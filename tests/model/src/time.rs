//! Time that is known to a span, and budgets that are counted in it.

/// The decision turns on when, within the span, the kernel looked at its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsure;

/// A moment between two others, both included, boot-time ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Not before.
    pub from: u64,
    /// Not after.
    pub to: u64,
}

impl Span {
    /// A moment that is known.
    #[must_use]
    pub const fn exactly(at: u64) -> Self {
        Span { from: at, to: at }
    }

    /// Whether a moment may be this one.
    #[must_use]
    pub const fn holds(self, at: u64) -> bool {
        self.from <= at && at <= self.to
    }

    /// The same, so much later.
    #[must_use]
    pub const fn later(self, by: u64) -> Self {
        Span {
            from: self.from.saturating_add(by),
            to: self.to.saturating_add(by),
        }
    }

    /// Whether this moment is after `other`.
    ///
    /// # Errors
    /// When the spans meet.
    pub const fn is_after(self, other: Span) -> Result<bool, Unsure> {
        if self.from > other.to {
            Ok(true)
        } else if self.to <= other.from {
            Ok(false)
        } else {
            Err(Unsure)
        }
    }

    /// Whether a deadline is over at this moment; 0 = there is none. At the deadline it is.
    ///
    /// # Errors
    /// When the deadline is within the span.
    pub const fn ends(self, deadline: u64) -> Result<bool, Unsure> {
        if deadline == 0 {
            return Ok(false);
        }
        self.is_after(Span::exactly(deadline - 1))
    }

    /// Whether a budget that is used up until `arrival` has one more at this moment, of a rate of one
    /// per `interval` ns with a burst of `burst` ns (the generic cell rate algorithm).
    ///
    /// # Errors
    /// When it gets one within the span.
    pub fn fits(self, arrival: Span, interval: u64, burst: u64) -> Result<bool, Unsure> {
        let most = burst.max(interval) - interval;
        // How far the arrival is ahead, at least and at most.
        let (least_ahead, most_ahead) = (
            arrival.from.saturating_sub(self.to),
            arrival.to.saturating_sub(self.from),
        );
        if most_ahead <= most {
            Ok(true)
        } else if least_ahead > most {
            Ok(false)
        } else {
            Err(Unsure)
        }
    }

    /// Takes one from a budget, where it [`fits`](Self::fits); whether it did.
    ///
    /// # Errors
    /// As `fits`.
    pub fn take(self, arrival: &mut Span, interval: u64, burst: u64) -> Result<bool, Unsure> {
        let fits = self.fits(*arrival, interval, burst)?;
        if fits {
            *arrival = Span {
                from: arrival.from.max(self.from),
                to: arrival.to.max(self.to),
            }
            .later(interval);
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sure_and_what_is_not() {
        let now = Span { from: 100, to: 110 };
        for (deadline, over) in [
            (0, Ok(false)),
            (99, Ok(true)),
            (100, Ok(true)),
            (101, Err(Unsure)),
            (110, Err(Unsure)),
            (111, Ok(false)),
        ] {
            assert_eq!(now.ends(deadline), over, "{deadline}");
        }
    }

    #[test]
    fn a_burst_of_three() {
        let mut arrival = Span::exactly(0);
        let now = Span {
            from: 1_000,
            to: 1_010,
        };
        for nth in 0..3 {
            assert_eq!(now.take(&mut arrival, 100, 350), Ok(true), "{nth}");
        }
        assert_eq!(now.take(&mut arrival, 100, 350), Ok(false));
        assert_eq!(arrival, now.later(300));
        // Whenever in its span the first came.
        for (at, fits) in [(1_049, Ok(false)), (1_055, Err(Unsure)), (1_060, Ok(true))] {
            assert_eq!(Span::exactly(at).take(&mut arrival, 100, 350), fits, "{at}");
        }
    }
}
