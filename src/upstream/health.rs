//! The health of one server, as a pure state machine over the results of its checks.
//!
//! ```text
//!             first check passes                 `fall` failures in a row
//!  Unknown ───────────────────────▶  Up  ───────────────────────────────────▶  Down
//!     │                              ▲                                          ▲ │
//!     │                              └───────── `rise` passes in a row ─────────┼─┘
//!     └────────────────────────── first check fails ───────────────────────────┘
//! ```
//!
//! The first check decides at once, so that a node that starts knows its servers after one pass. A server whose
//! health is unknown is not chosen.

/// Whether a server may be chosen, as far as checks can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet.
    #[default]
    Unknown,
    /// Passes its checks.
    Up,
    /// Fails its checks.
    Down,
}

impl Health {
    /// The word that the admin API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        }
    }
}

/// Counts results until they change the state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    health: Health,
    /// Results in a row that speak against the present state.
    against: u32,
}

impl Machine {
    /// The present state.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes in the result of one check, and returns the new state if it changed.
    pub fn observe(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Health> {
        let (next, needed) = match (self.health, passed) {
            (Health::Unknown, true) => (Health::Up, 1),
            (Health::Unknown, false) => (Health::Down, 1),
            (Health::Up, false) => (Health::Down, fall),
            (Health::Down, true) => (Health::Up, rise),
            (Health::Up, true) | (Health::Down, false) => {
                self.against = 0;
                return None;
            }
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        *self = Machine { health: next, against: 0 };
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(results: &[bool]) -> (Machine, Vec<Health>) {
        let mut machine = Machine::default();
        let changes = results.iter().filter_map(|&passed| machine.observe(passed, 2, 3)).collect();
        (machine, changes)
    }

    #[test]
    fn the_first_check_decides() {
        assert_eq!(run(&[]).0.health(), Health::Unknown);
        assert_eq!(run(&[true]).1, [Health::Up]);
        assert_eq!(run(&[false]).1, [Health::Down]);
    }

    #[test]
    fn it_takes_fall_failures_in_a_row_to_go_down() {
        assert_eq!(run(&[true, false, false, true, false, false]).0.health(), Health::Up);
        assert_eq!(run(&[true, false, false, false]).1, [Health::Up, Health::Down]);
    }

    #[test]
    fn it_takes_rise_passes_in_a_row_to_come_back() {
        assert_eq!(run(&[false, true, false, true]).0.health(), Health::Down);
        assert_eq!(run(&[false, true, true]).1, [Health::Down, Health::Up]);
    }
}
