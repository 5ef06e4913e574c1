//! The seam between the API and the site: what can be asked, and where the answer goes.
//!
//! The site's loop receives [`Ask`]s from a bounded channel. Each variant carries its own [`Reply`], so an answer of the
//! wrong type does not compile, and whatever takes long can take its `Reply` along into a task of its own.

use std::time::Duration;

use godwit_ledger::block::Height;
use godwit_protocol::membership::{Membership, Proposal};
use godwit_protocol::{ContainerId, Event, OfferId, RecordId, Signed, SiteId, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use utoipa::ToSchema;

use super::fault::{Fault, Kind};
use super::view::{
    BlockView, ContainerView, Deploy, HealthView, LogLine, MembersView, OfferView, SiteView, StatusView, StepView,
    TimelineView,
};

/// Requests waiting for the site's loop. It answers in microseconds; a full queue means that it hangs.
pub const ASKS_MAX: usize = 64;

/// Notices kept for a slow reader of the event stream before it misses some, and is told so.
pub const NOTICES_MAX: usize = 1024;

/// Log lines between the engine and a slow reader; the engine waits when it is full.
pub const LOG_LINES_MAX: usize = 256;

/// Records that are looked at when the beginning of an id is given: more of them would only be listed as too many.
pub const FOUND_MAX: usize = 16;

/// One request to the site.
#[derive(Debug)]
pub enum Ask {
    /// The site at a glance.
    Status(Reply<StatusView>),
    /// What is wrong with it, if anything is.
    Health(Reply<HealthView>),
    /// All sites of the mesh with their last capacity.
    Sites(Reply<Vec<SiteView>>),
    /// The membership in force.
    Members(Reply<MembersView>),
    /// Sign a membership change as this site.
    Approve(Box<Proposal>, Reply<Signed<Proposal>>),
    /// Append a membership change that enough validators have signed.
    SubmitMembership(Box<Membership>, Reply<RecordId>),
    /// All live containers of the mesh.
    Containers(Reply<Vec<ContainerView>>),
    /// Run a container on this site and register it.
    Deploy(Box<Deploy>, Reply<ContainerView>),
    /// Stop a container of this site; it stays registered.
    Stop(ContainerId, Reply<()>),
    /// Remove a container of this site and retire it.
    Remove {
        /// Which.
        container: ContainerId,
        /// Even while it runs.
        force: bool,
        /// When done.
        reply: Reply<()>,
    },
    /// The output of a container of this site.
    Logs {
        /// Which.
        container: ContainerId,
        /// At most this many of the last lines; all if absent.
        tail: Option<u32>,
        /// Go on with what it writes from now on, until the receiver is dropped.
        follow: bool,
        /// A channel of at most [`LOG_LINES_MAX`] lines.
        reply: Reply<mpsc::Receiver<LogLine>>,
    },
    /// Offer a container of this site to the others.
    Migrate {
        /// Which.
        container: ContainerId,
        /// A wish that weighs in the score.
        prefer: Option<SiteId>,
        /// The offer that was appended.
        reply: Reply<OfferId>,
    },
    /// Empty the site and accept nothing, or end that. Answers with the containers that are to go.
    Drain {
        /// Begin or end.
        on: bool,
        /// What is to go.
        reply: Reply<Vec<ContainerId>>,
    },
    /// Open offers and those that ended lately, newest first.
    Offers(Reply<Vec<OfferView>>),
    /// One handoff, step by step.
    Timeline(OfferId, Reply<TimelineView>),
    /// Committed blocks.
    Log {
        /// The first.
        from: Height,
        /// How many at most.
        most: u16,
        /// Fewer if the chain ends before.
        reply: Reply<Vec<BlockView>>,
    },
    /// Committed blocks as they are stored: canonical bytes, for whoever verifies them.
    Raw {
        /// The first.
        from: Height,
        /// How many at most.
        most: u16,
        /// Fewer if the chain ends before, or if they are large.
        reply: Reply<Vec<Vec<u8>>>,
    },
    /// Committed records whose ids begin so, at most [`FOUND_MAX`].
    Find(String, Reply<Vec<RecordId>>),
    /// The proof of a committed record, as a file.
    Prove(RecordId, Reply<Vec<u8>>),
}

/// Where an answer goes. Dropped unused it answers "unavailable".
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<Result<T, Fault>>);

impl<T> Reply<T> {
    /// Answers. Whoever asked may have gone; that is its own affair.
    pub fn send(self, answer: Result<T, Fault>) {
        drop(self.0.send(answer));
    }

    /// Whether whoever asked has gone, so that long work for it can stop.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// What happens at the site, as it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Notice {
    /// A committed block had this effect.
    Committed {
        /// The block.
        height: u64,
        /// Its time, in ms since the Unix epoch.
        #[schema(value_type = u64)]
        time: Time,
        /// The effect.
        #[schema(value_type = Object)]
        event: Box<Event>,
    },
    /// A step of a handoff at this site.
    Step {
        /// Which handoff.
        #[schema(value_type = String)]
        offer: OfferId,
        /// The step.
        step: StepView,
    },
    /// Long work advances.
    Progress {
        /// What it is for: an image reference, or an offer's id.
        subject: String,
        /// What is being done, for example `pull layer 3 of 7`.
        task: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all; 0 while unknown.
        total: u64,
    },
    /// Something needs the operator.
    Alert {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// The reader was too slow and missed this many notices.
    Missed {
        /// How many.
        notices: u64,
    },
}

impl Notice {
    /// Its kind as the JSON names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::Step { .. } => "step",
            Self::Progress { .. } => "progress",
            Self::Alert { .. } => "alert",
            Self::Missed { .. } => "missed",
        }
    }
}

/// The API's hold on the site.
#[derive(Clone, Debug)]
pub struct SiteHandle {
    asks: mpsc::Sender<Ask>,
    notices: broadcast::Sender<Notice>,
}

/// The site's ends of the channels.
#[derive(Debug)]
pub struct SiteEnd {
    /// What is asked.
    pub asks: mpsc::Receiver<Ask>,
    /// Where to say what happens. Saying it to nobody is no error.
    pub notices: broadcast::Sender<Notice>,
}

/// The two ends.
#[must_use]
pub fn channel() -> (SiteHandle, SiteEnd) {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let notices = broadcast::Sender::new(NOTICES_MAX);
    (SiteHandle { asks, notices: notices.clone() }, SiteEnd { asks: asked, notices })
}

impl SiteHandle {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the site answers; [`Kind::Unavailable`] if it cannot take the request, [`Kind::Timeout`] after `wait`.
    pub async fn ask<T>(&self, wait: Duration, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(ask(Reply(answer))).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                Fault::new(Kind::Unavailable, format!("the site has {ASKS_MAX} requests waiting"))
                    .remedy("try again in a moment; if it persists, look at the site's log and its load")
            }
            mpsc::error::TrySendError::Closed(_) => Fault::new(Kind::Unavailable, "the site is stopping"),
        })?;
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Fault::new(Kind::Unavailable, "the site dropped the request, it is probably stopping")),
            Err(_) => Err(Fault::new(Kind::Timeout, format!("no answer from the site within {} s", wait.as_secs()))
                .remedy("it may still be carried out: look again before you repeat it")),
        }
    }

    /// What happens from now on.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}
