//! Where the table goes: a terminal, on which it is drawn over the last one, or a pipe or file, which just gets text.

use std::io::Write;

/// The cursor away, long lines cut instead of wrapped (a wrapped line would take two, and the next table miss).
const BEGIN: &str = "\x1b[?25l\x1b[?7l";
/// Both as they were, and away with the `^C` that the terminal wrote.
const END: &str = "\r\x1b[K\x1b[?7h\x1b[?25h";

/// Shows texts; gives a terminal back as it was when dropped.
pub struct Screen<W: Write> {
    out: W,
    terminal: bool,
    /// Lines that are to be drawn over; none before the first text.
    height: Option<usize>,
}

impl<W: Write> Screen<W> {
    /// `terminal`: texts replace one another. Nothing is written yet.
    pub fn new(out: W, terminal: bool) -> Self {
        Screen { out, terminal, height: None }
    }

    /// Shows a text of whole lines, in one write so that it does not flicker.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn show(&mut self, text: &str) -> std::io::Result<()> {
        if !self.terminal {
            self.out.write_all(text.as_bytes())?;
            return self.out.flush();
        }
        let mut frame = match self.height {
            None => BEGIN.to_owned(),
            Some(0) => "\r".to_owned(),
            Some(lines) => format!("\r\x1b[{lines}A"),
        };
        for line in text.lines() {
            frame.push_str(line);
            frame.push_str("\x1b[K\n");
        }
        frame.push_str("\x1b[J");
        self.height = Some(text.lines().count());
        self.out.write_all(frame.as_bytes())?;
        self.out.flush()
    }

    /// Gives the terminal back; what was shown last stays.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn restore(&mut self) -> std::io::Result<()> {
        if self.height.take().is_some() {
            self.out.write_all(END.as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        self.restore().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(terminal: bool, texts: &[&str]) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, terminal);
        texts.iter().for_each(|text| screen.show(text).unwrap());
        drop(screen);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_is_drawn_over_and_given_back() {
        let out = written(true, &["a\nb\n", "c\n"]);
        assert_eq!(out, format!("{BEGIN}a\x1b[K\nb\x1b[K\n\x1b[J\r\x1b[2Ac\x1b[K\n\x1b[J{END}"));
    }

    #[test]
    fn a_pipe_gets_the_text_only() {
        assert_eq!(written(false, &["a\nb\n", "c\n"]), "a\nb\nc\n");
    }

    #[test]
    fn a_terminal_that_showed_nothing_is_left_alone() {
        assert_eq!(written(true, &[]), "");
    }

    #[test]
    fn nobody_reading_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(Screen::new(writer, false).show("a\n").is_err());
    }
}
