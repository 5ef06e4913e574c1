//! `Offer`, `Bid`, `Decline` and the award that follows from them.

use std::sync::Arc;

use godwit_protocol::bid::{Bid, Decline};
use godwit_protocol::event::EndReason;
use godwit_protocol::offer::{MAX_WINDOW, MIN_NAMED, Offer, Why};
use godwit_protocol::report::Report;
use godwit_protocol::{Event, Millis, OfferId, Signed, SiteId, auction};

use super::Work;
use super::containers::twice;
use crate::refusal::Refusal;
use crate::state::{Auction, Container, Phase};

/// Offers of one author that have not ended: a site that drains moves this many at once.
pub const MAX_OPEN_OFFERS: u32 = 64;

/// Bids of sites that an offer does not name. Those it names always fit.
pub const MAX_UNNAMED_BIDS: usize = 256;

/// A vehicle at 50 km/h moves some 400 m in this time.
pub const MAX_REPORT_AGE: Millis = Millis(30_000);

impl Work {
    pub(super) fn check_offer(&self, author: &SiteId, offer: &Offer) -> Result<(), Refusal> {
        let container = self.owned(author, &offer.container)?;
        if offer.epoch != container.epoch {
            return Err(Refusal::WrongEpoch { current: container.epoch, got: offer.epoch });
        }
        if let Some(open) = container.open {
            return Err(Refusal::OfferOpen(open));
        }
        self.check_named(author, offer)?;
        self.check_window(offer.window)?;
        if let Why::Mobility { report } = &offer.why {
            self.check_report(container, report)?;
        }
        let open_offers = self.state.authors.get(author).map_or(0, |author| author.open_offers);
        if open_offers >= MAX_OPEN_OFFERS { Err(Refusal::TooManyOffers(open_offers)) } else { Ok(()) }
    }

    pub(super) fn offer(&mut self, author: SiteId, id: OfferId, offer: &Offer) {
        let closes = self.at.after(offer.window);
        let opened = Auction {
            source: author,
            body: offer.clone(),
            opened: self.at,
            closes,
            bids: Vec::new(),
            declines: Vec::new(),
            award: None,
            attempt: 0,
            phase: Phase::Bidding,
        };
        self.state.auctions.insert(id, opened);
        self.state.containers.modify(&offer.container).expect("its owner was checked").open = Some(id);
        self.author(author).open_offers += 1;
        Arc::make_mut(&mut self.state.closing).insert((closes, id));
        self.events.push(Event::Opened { offer: id, source: author, body: offer.clone(), closes });
    }

    pub(super) fn check_bid(&self, author: &SiteId, bid: &Bid) -> Result<(), Refusal> {
        let auction = self.auction(&bid.offer)?;
        if auction.source == *author {
            return Err(Refusal::OwnOffer);
        }
        check_may_answer(auction, author)?;
        let named = |site: &SiteId| auction.body.named.contains(site);
        let unnamed = auction.bids.iter().filter(|(site, _)| !named(site)).count();
        if !named(author) && unnamed >= MAX_UNNAMED_BIDS {
            return Err(Refusal::TooManyBids(MAX_UNNAMED_BIDS));
        }
        Ok(())
    }

    pub(super) fn bid(&mut self, author: SiteId, bid: &Bid) {
        self.change_auction(&bid.offer).bids.push((author, *bid));
        self.events.push(Event::BidPlaced { bidder: author, bid: *bid });
        self.close_if_answered(bid.offer);
    }

    pub(super) fn check_decline(&self, author: &SiteId, decline: &Decline) -> Result<(), Refusal> {
        if decline.attempt > 0 {
            return self.check_winner(author, &decline.offer, decline.attempt).map(|_| ());
        }
        let auction = self.auction(&decline.offer)?;
        if !auction.body.named.contains(author) {
            return Err(Refusal::NotNamed);
        }
        check_may_answer(auction, author)
    }

    pub(super) fn decline(&mut self, author: SiteId, decline: &Decline) {
        let (offer, reason) = (decline.offer, decline.reason.clone());
        if decline.attempt > 0 {
            return self.pass(offer, reason);
        }
        self.change_auction(&offer).declines.push((author, reason.clone()));
        self.events.push(Event::Declined { offer, site: author, reason });
        self.close_if_answered(offer);
    }

    fn close_if_answered(&mut self, offer: OfferId) {
        if self.state.auctions.get(&offer).is_some_and(Auction::is_answered) {
            self.close(offer);
        }
    }

    /// Bidding ends: the best of those that still belong to the mesh wins.
    pub(super) fn close(&mut self, offer: OfferId) {
        self.stop_bidding(&offer);
        let auction = self.state.auctions.get(&offer).expect("an offer that takes bids is in the state");
        let eligible = |(site, _): &&(SiteId, Bid)| self.may_win(site);
        let bids: Vec<(SiteId, Bid)> = auction.bids.iter().filter(eligible).copied().collect();
        if bids.is_empty() {
            return self.end(offer, EndReason::NoBids);
        }
        let award = auction::close(&self.parent(), &offer, &auction.body, &bids);
        let auction = self.change_auction(&offer);
        (auction.award, auction.attempt, auction.phase) = (Some(award.clone()), 1, Phase::Awarded);
        self.events.push(Event::Awarded { offer, award });
    }

    fn check_named(&self, author: &SiteId, offer: &Offer) -> Result<(), Refusal> {
        if let Some(site) = twice(&offer.named) {
            return Err(Refusal::NamedTwice(site));
        }
        if offer.named.contains(author) {
            return Err(Refusal::NamedSource);
        }
        if let Some(site) = offer.named.iter().find(|site| !self.state.is_eligible(site)) {
            return Err(Refusal::NamedNotEligible(*site));
        }
        // No more than are needed are counted: a mesh has thousands of members.
        let others = self.state.members().filter(|m| m.site != *author && self.state.is_eligible(&m.site));
        let (got, least) = (offer.named.len(), others.take(MIN_NAMED).count());
        if got > 0 && got < least { Err(Refusal::TooFewNamed { got, least }) } else { Ok(()) }
    }

    fn check_window(&self, window: Millis) -> Result<(), Refusal> {
        let least = self.state.min_window();
        if window < least {
            return Err(Refusal::WindowTooShort { got: window, least });
        }
        if window > MAX_WINDOW { Err(Refusal::WindowTooLong(window)) } else { Ok(()) }
    }

    fn check_report(&self, container: &Container, report: &Signed<Report>) -> Result<(), Refusal> {
        let (made, at) = (report.body.at, self.at);
        if !container.register.clients.contains(&report.author) {
            return Err(Refusal::NotItsClient(report.author));
        }
        if made > at.after(Millis(self.state.founding().clock_bound_ms)) {
            return Err(Refusal::ReportAhead { made, at });
        }
        if at.since(made) > MAX_REPORT_AGE {
            return Err(Refusal::ReportStale { made, at });
        }
        let heard: Vec<SiteId> = report.body.signals.iter().map(|signal| signal.site).collect();
        if let Some(site) = twice(&heard) {
            return Err(Refusal::ReportTwice(site));
        }
        report.clone().verify(&self.state.mesh()).map(|_| ()).map_err(|_| Refusal::ReportForged)
    }
}

/// Bidding goes on and the site has not answered.
fn check_may_answer(auction: &Auction, site: &SiteId) -> Result<(), Refusal> {
    if auction.phase != Phase::Bidding {
        return Err(Refusal::BiddingOver);
    }
    if auction.bids.iter().any(|(bidder, _)| bidder == site) {
        return Err(Refusal::AlreadyBid);
    }
    if auction.has_answer(site) { Err(Refusal::AlreadyDeclined) } else { Ok(()) }
}
