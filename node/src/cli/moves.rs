//! `offers`, `migrate`, `drain`, `timeline`.

use futures::{Stream, StreamExt};
use godwit_protocol::event::EndReason;
use godwit_protocol::{Event, OfferId};
use indicatif::ProgressBar;

use super::client::{ApiClient, ApiError};
use super::failure::Failure;
use super::out::{Out, measure_bytes};
use super::table::{bytes, moment, or_dash, short, span, table, time_of_day};
use crate::api::site::Notice;
use crate::api::view::{Drain, Draining, Migrate, OfferState, OfferView, Offered, TimelineView};

/// `godwit offers`.
pub async fn offers(api: &ApiClient, out: Out) -> Result<(), Failure> {
    let offers: Vec<OfferView> = api.get(&["v1", "offers"], &[]).await?;
    out.show(&offers, |offers| offers_table(offers))
}

pub(super) fn offers_table(offers: &[OfferView]) -> String {
    let row = |offer: &OfferView| {
        vec![
            short(&offer.offer),
            time_of_day(offer.opened),
            offer.container_name.clone(),
            offer.source_name.clone(),
            offer.why.clone(),
            state(offer.state).to_owned(),
            or_dash(offer.winner_name.clone()),
            offer.bids.len().to_string(),
            offer.declines.len().to_string(),
            offer.attempt.to_string(),
            or_dash(offer.ended.clone()),
        ]
    };
    let headings =
        ["OFFER", "OPENED", "CONTAINER", "SOURCE", "WHY", "STATE", "WINNER", ">BIDS", ">DECLINES", ">ATTEMPT", "ENDED"];
    table(&headings, &offers.iter().map(row).collect::<Vec<_>>())
}

fn state(state: OfferState) -> &'static str {
    match state {
        OfferState::Bidding => "bidding",
        OfferState::Awarded => "awarded",
        OfferState::Ready => "ready",
        OfferState::Received => "received",
        OfferState::Done => "done",
        OfferState::Ended => "ended",
    }
}

/// `godwit migrate`.
pub async fn migrate(
    api: &ApiClient,
    container: &str,
    prefer: Option<String>,
    wait: bool,
    out: Out,
) -> Result<(), Failure> {
    // Listening first: the handoff may be over before the answer is read.
    let mut notices = api.notices().await?;
    let offered: Offered = api.post(&["v1", "containers", container, "migrate"], &Migrate { prefer }).await?;
    if !wait {
        return out.show(&offered, |offered| {
            format!("offered as {}; `godwit timeline {}` shows how it goes\n", offered.offer, short(&offered.offer))
        });
    }
    let bar = out.progress(&format!("offer {}", short(&offered.offer)));
    let ended = follow(api, &mut notices, offered.offer, &bar).await;
    bar.finish_and_clear();
    let ended = ended?;
    timeline(api, &offered.offer.to_string(), out).await?;
    match ended {
        None => Ok(()),
        Some(why) => Err(Failure::Verdict(format!("the container stayed: {why}"))),
    }
}

/// Waits for the end of a handoff; why the container stayed, if it did.
async fn follow(
    api: &ApiClient,
    notices: &mut (impl Stream<Item = Result<Notice, ApiError>> + Unpin),
    offer: OfferId,
    bar: &ProgressBar,
) -> Result<Option<String>, Failure> {
    while let Some(notice) = notices.next().await {
        match notice? {
            Notice::Committed { event, .. } if event.offer() == Some(offer) => match *event {
                Event::Closed { .. } => return Ok(None),
                Event::Ended { reason, .. } => return Ok(Some(why(&reason))),
                Event::Returned { .. } => return Ok(Some("it was taken back after its receipt".to_owned())),
                event => bar.set_message(stage(&event)),
            },
            Notice::Step { offer: about, step } if about == offer => bar.set_message(step.name),
            Notice::Progress { subject, task, done, total } if subject == offer.to_string() => {
                measure_bytes(bar, &task, done, total);
            }
            // Its end may be among what was missed.
            Notice::Missed { .. } => {
                let now: OfferView = api.get(&["v1", "offers", &offer.to_string()], &[]).await?;
                match now.state {
                    OfferState::Done => return Ok(None),
                    OfferState::Ended => return Ok(Some(now.ended.unwrap_or_default())),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Err(Failure::Verdict(format!("the site stopped before the handoff ended; `godwit timeline {}`", short(&offer))))
}

fn stage(event: &Event) -> String {
    match event {
        Event::Opened { .. } => "bidding",
        Event::BidPlaced { .. } => "bids come in",
        Event::Awarded { .. } => "awarded",
        Event::Passed { .. } => "the next runner-up is on",
        Event::Readied { .. } => "ready",
        Event::Received { .. } => "received",
        _ => "goes on",
    }
    .to_owned()
}

fn why(reason: &EndReason) -> String {
    match reason {
        EndReason::NoBids => "no site bid for it; `godwit offers --json` says why they declined".to_owned(),
        EndReason::NoneLeft(last) => format!("all bidders gave up, the last one: {last:?}"),
        EndReason::Aborted(why) => format!("the source ended the offer: {why:?}"),
    }
}

/// `godwit drain`.
pub async fn drain(api: &ApiClient, on: bool, out: Out) -> Result<(), Failure> {
    let draining: Draining = api.post(&["v1", "drain"], &Drain { on }).await?;
    out.show(&draining, |draining| match (draining.on, draining.containers.len()) {
        (true, 0) => "draining: the site is empty and accepts nothing\n".to_owned(),
        (true, n) => format!("draining: {n} containers are to go; `godwit ps --local` shows which are left\n"),
        (false, _) => "the site accepts containers again\n".to_owned(),
    })
}

/// `godwit timeline`.
pub async fn timeline(api: &ApiClient, offer: &str, out: Out) -> Result<(), Failure> {
    let timeline: TimelineView = api.get(&["v1", "offers", offer, "timeline"], &[]).await?;
    out.show(&timeline, timeline_table)
}

pub(super) fn timeline_table(timeline: &TimelineView) -> String {
    let target = timeline.target_name.as_deref().unwrap_or("nobody yet");
    let mut text = format!(
        "offer {}: {} from {} to {target}, {}\n",
        short(&timeline.offer),
        timeline.container_name,
        timeline.source_name,
        state(timeline.state)
    );
    let Some(first) = timeline.steps.first().map(|step| step.at_ms) else { return text };
    text.push_str(&format!("from {} UTC\n\n", moment(first)));
    let rows: Vec<_> = timeline
        .steps
        .iter()
        .map(|step| {
            let since = format!("+{}", span(step.since_previous_ms));
            vec![span(step.at_ms.since(first)), since, step.name.clone(), step.site.clone(), step.detail.clone()]
        })
        .collect();
    text.push_str(&table(&[">AT", ">SINCE LAST", "STEP", "SITE", "DETAIL"], &rows));
    if let Some(downtime) = &timeline.downtime_ms {
        let parts: Vec<_> = downtime.iter().map(|(name, ms)| format!("{name} {ms} ms")).collect();
        text.push_str(&format!("\nmeasured by the target: {}\n", parts.join(", ")));
    }
    if let Some(moved) = timeline.bytes {
        text.push_str(&format!("moved {}\n", bytes(moved)));
    }
    text
}
