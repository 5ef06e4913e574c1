//! People name containers, sites and offers by name or by the beginning of an id.

use std::fmt::Display;

use super::fault::{Fault, Kind};

/// How many candidates are listed when a name fits several.
const LISTED: usize = 5;

/// A thing that can be named.
pub struct Candidate<I> {
    /// Its id.
    pub id: I,
    /// Its name; not unique, may be empty.
    pub name: String,
}

/// The one candidate that `text` names: an exact name goes before the beginning of an id.
///
/// # Errors
/// [`Kind::NotFound`] if there is none, [`Kind::Conflict`] if there are several.
pub fn one<I: Display + Copy>(what: &str, text: &str, candidates: &[Candidate<I>]) -> Result<I, Fault> {
    let named: Vec<_> = candidates.iter().filter(|c| !text.is_empty() && c.name == text).collect();
    let fitting = if named.is_empty() {
        candidates.iter().filter(|c| !text.is_empty() && c.id.to_string().starts_with(text)).collect()
    } else {
        named
    };
    match fitting.as_slice() {
        [only] => Ok(only.id),
        [] => Err(Fault::new(Kind::NotFound, format!("no {what} is named `{text}` or has an id that begins with it"))
            .remedy(format!("list what there is: {}", listing(what)))),
        several => {
            let ids: Vec<_> = several.iter().take(LISTED).map(|c| short(&c.id)).collect();
            let more = if several.len() > LISTED { ", …" } else { "" };
            Err(Fault::new(
                Kind::Conflict,
                format!("`{text}` fits {} {what}s: {}{more}", several.len(), ids.join(", ")),
            )
            .remedy("give more of the id"))
        }
    }
}

fn listing(what: &str) -> &'static str {
    match what {
        "site" => "`godwit sites`",
        "offer" => "`godwit offers`",
        "record" => "`godwit log`",
        _ => "`godwit ps`",
    }
}

fn short(id: &impl Display) -> String {
    id.to_string().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate<&'static str>> {
        [("aa11", "web"), ("aa22", "db"), ("bb33", "db"), ("cc44", "aa11")]
            .map(|(id, name)| Candidate { id, name: name.to_owned() })
            .into()
    }

    #[test]
    fn a_name_or_a_unique_beginning_of_an_id_finds_the_thing() {
        let all = candidates();
        assert_eq!(one("container", "web", &all), Ok("aa11"));
        assert_eq!(one("container", "b", &all), Ok("bb33"));
        assert_eq!(one("container", "aa11", &all), Ok("cc44"), "a name goes before an id");
    }

    #[test]
    fn what_fits_none_or_several_is_refused_by_name() {
        let all = candidates();
        for (text, kind) in
            [("zz", Kind::NotFound), ("", Kind::NotFound), ("db", Kind::Conflict), ("aa", Kind::Conflict)]
        {
            let fault = one("container", text, &all).unwrap_err();
            assert_eq!(fault.kind, kind, "{text}: {fault}");
        }
        assert!(one("container", "db", &all).unwrap_err().error.contains("aa22, bb33"));
    }
}
