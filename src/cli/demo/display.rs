//! Shows frame after frame: a table on a terminal, lines elsewhere.

use std::io::{IsTerminal, Stdout};
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::table::{self, Frame, Head};
use super::traffic::Sent;

/// How often the table is drawn on a terminal, and lines are written elsewhere.
const FRAME: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_secs(1);

/// Standard output.
pub struct Display {
    head: Head,
    terminal: bool,
    screen: Screen<Stdout>,
    began: Instant,
    due: Instant,
    /// Whether the nodes knew the fleet's counts at the last lines.
    shared: Option<bool>,
}

impl Display {
    /// Begins; lines have a head.
    ///
    /// # Errors
    /// Nobody reads.
    pub fn open(head: Head) -> std::io::Result<Self> {
        let terminal = std::io::stdout().is_terminal();
        let mut screen = Screen::new(std::io::stdout(), terminal);
        if !terminal {
            screen.show(&table::head_of_lines(&head))?;
        }
        let began = Instant::now();
        Ok(Display { head, terminal, screen, began, due: began, shared: None })
    }

    /// Whether it is time for another frame.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Shows a frame.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn show(&mut self, now: Instant, frame: &Frame, sent: &Sent) -> std::io::Result<()> {
        self.due = now + if self.terminal { FRAME } else { LINE };
        if self.terminal {
            return self.screen.show(&table::table(&self.head, frame, sent));
        }
        let elapsed = now - self.began;
        let shared = frame.mode.is_some();
        if self.head.redis.is_some() && self.shared.replace(shared) != Some(shared) {
            self.screen.show(&table::redis_line(&self.head, elapsed, frame))?;
        }
        self.screen.show(&table::lines(&self.head, elapsed, frame))
    }

    /// Gives a terminal back; what was shown last stays.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn close(mut self) -> std::io::Result<()> {
        self.screen.restore()
    }
}
