//! The nearest right word.

/// ` (did you mean `x`?)` when one of `words` is near to `word`, else nothing.
pub(super) fn did_you_mean<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, words) {
        Some(near) => format!(" (did you mean `{near}`?)"),
        None => String::new(),
    }
}

/// The nearest of `words`, when at most a third of the letters differ.
pub(super) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let count = word.chars().count();
    if count > 64 {
        return None;
    }
    let allowed = (count / 3).max(1);
    words
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove, replace or swap with their neighbour; case does not count.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = (above[j] + 1).min(row[j - 1] + 1);
            best = best.min(above[j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["balance", "servers", "health", "hash", "upstream"];
        assert_eq!(nearest("blance", words), Some("balance"));
        assert_eq!(nearest("Servers", words), Some("servers"));
        assert_eq!(nearest("server", words), Some("servers"));
        assert_eq!(nearest("heatlh", words), Some("health"));
        assert_eq!(nearest("frobnicate", words), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(did_you_mean("hsah", words), " (did you mean `hash`?)");
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
