//! Numbers of bytes.

use serde_json::Value;

use super::kind::{Kind, Parsed};
use super::problem::Findings;
use super::tree::Node;
use super::units::parse_size;

/// A number of bytes such as `64KiB`.
pub(super) struct Size {
    min: u64,
    max: u64,
}

/// A number of bytes from `min` to `max`.
pub(super) fn bytes(min: u64, max: u64) -> Size {
    Size { min, max }
}

impl Size {
    fn form(&self) -> Parsed<u64> {
        Parsed {
            what: "a size such as `64KiB` or `10MiB`",
            pattern: "^[0-9]{1,9}(B|KiB|MiB|GiB)$",
            parse: |text| parse_size(text).map_err(|problem| format!("{problem}, like `64KiB`")),
        }
    }
}

impl Kind for Size {
    type Out = u64;

    fn what(&self) -> String {
        self.form().what()
    }

    fn schema(&self) -> Value {
        self.form().schema()
    }

    fn read(&self, node: &Node, found: &mut Findings) -> Option<u64> {
        let size = self.form().read(node, found)?;
        let problem = match size {
            size if size < self.min => format!("small: give at least `{}B`", self.min),
            size if size > self.max => format!("large: give at most `{}B`", self.max),
            size => return Some(size),
        };
        found.add(format!("{} is too {problem}", node.shown()));
        None
    }
}
