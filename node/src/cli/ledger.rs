//! `log`, `events`.

use futures::StreamExt;

use super::client::ApiClient;
use super::failure::Failure;
use super::out::Out;
use super::table::{moment, short};
use crate::api::site::Notice;
use crate::api::view::BlockView;

/// `godwit log`.
pub async fn log(api: &ApiClient, from: Option<u64>, most: u16, follow: bool, out: Out) -> Result<(), Failure> {
    // Listening first: no block falls between what is printed and what is followed.
    let notices = if follow { Some(api.notices().await?) } else { None };
    let mut query = vec![("most", most.to_string())];
    query.extend(from.map(|height| ("from", height.to_string())));
    let blocks: Vec<BlockView> = api.get(&["v1", "blocks"], &query).await?;
    if out.json && !follow {
        return out.json(&blocks);
    }
    let mut next = blocks.last().map_or_else(|| from.unwrap_or(1), |block| block.height + 1);
    blocks.iter().try_for_each(|block| print(out, block))?;
    let Some(mut notices) = notices else { return Ok(()) };
    while let Some(notice) = notices.next().await {
        let new = match notice? {
            Notice::Committed { height, .. } => height >= next,
            Notice::Missed { .. } => true,
            _ => false,
        };
        if new {
            next = catch_up(api, next, out).await?;
        }
    }
    Err(Failure::Verdict("the site stopped".to_owned()))
}

/// Prints all blocks from a height on; the height after the last.
async fn catch_up(api: &ApiClient, mut next: u64, out: Out) -> Result<u64, Failure> {
    loop {
        let query = [("from", next.to_string()), ("most", "256".to_owned())];
        let blocks: Vec<BlockView> = api.get(&["v1", "blocks"], &query).await?;
        let Some(last) = blocks.last() else { return Ok(next) };
        next = last.height + 1;
        blocks.iter().try_for_each(|block| print(out, block))?;
    }
}

fn print(out: Out, block: &BlockView) -> Result<(), Failure> {
    if out.json { out.json_line(block) } else { out.text(&block_text(block)) }
}

pub(super) fn block_text(block: &BlockView) -> String {
    let mut text = format!(
        "{} {}  {} UTC  by {}, {} signers, round {}\n",
        console::style(format!("block {}", block.height)).bold(),
        short(&block.hash),
        moment(block.time),
        block.proposer_name,
        block.signers,
        block.round
    );
    for record in &block.records {
        let (id, kind, author) = (short(&record.record), &record.kind, &record.author_name);
        text.push_str(&format!("  {id}  {kind:<10}  {author:<16}  {}\n", record.summary));
    }
    text
}

/// `godwit events`.
pub async fn events(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let mut notices = api.notices().await?;
    while let Some(notice) = notices.next().await {
        out.json_line(&notice?)?;
    }
    Err(Failure::Verdict("the site stopped".to_owned()))
}
