//! Refuses connections by key, as soon as the handshake has proved the key; and keeps clients out of all but reports.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint as Side;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{AddressChange, ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::book::{Book, Standing};
use super::metrics::Metrics;
use super::refusal::Refusal;

/// A connection was refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub Refusal);

/// Admits members and clients, nobody else, and closes connections of those who are no longer.
pub struct Admission {
    book: Book,
    metrics: Metrics,
    open: HashMap<ConnectionId, (PeerId, Standing)>,
    closing: VecDeque<(PeerId, ConnectionId)>,
    waker: Option<Waker>,
}

impl Admission {
    /// Judges by the book.
    #[must_use]
    pub fn new(book: Book, metrics: Metrics) -> Self {
        Self { book, metrics, open: HashMap::new(), closing: VecDeque::new(), waker: None }
    }

    /// Closes the connections whose peer lost or changed its standing; to be called after the book changed.
    pub fn review(&mut self) {
        for (connection, (peer, standing)) in &self.open {
            if self.book.standing(peer) != Some(*standing) {
                self.closing.push_back((*peer, *connection));
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn judge(&mut self, connection: ConnectionId, peer: PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        let refuse = |metrics: &Metrics, what| {
            metrics.refuse(what);
            Err(ConnectionDenied::new(Denied(what)))
        };
        let Some(standing) = self.book.standing(&peer) else { return refuse(&self.metrics, Refusal::Stranger) };
        // What a peer's connections may do must not differ while handlers are chosen by peer, not by connection.
        if self.open.values().any(|(other, held)| *other == peer && *held != standing) {
            return refuse(&self.metrics, Refusal::RoleChanging);
        }
        self.open.insert(connection, (peer, standing));
        Ok(dummy::ConnectionHandler)
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.judge(connection, peer)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Side,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match peer {
            // Not counted: we were the ones to try.
            Some(peer) if self.book.member(&peer).is_none() => Err(ConnectionDenied::new(Denied(Refusal::Stranger))),
            Some(peer) => Ok(self.book.addresses(&peer)),
            None => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Side,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.judge(connection, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.open.remove(&connection_id);
            }
            // A behaviour after this one refused the connection.
            FromSwarm::ListenFailure(failure) => {
                self.open.remove(&failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.open.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.closing.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(connection) });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A behaviour that exists for members only: on a client's connection its protocols are not even offered.
pub struct MembersOnly<B> {
    /// What members get.
    pub inner: B,
    book: Book,
    outside: HashSet<ConnectionId>,
}

impl<B> MembersOnly<B> {
    /// Gates `inner` by the book.
    pub fn new(inner: B, book: Book) -> Self {
        Self { inner, book, outside: HashSet::new() }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.book.member(&peer).is_none() {
            self.outside.insert(connection);
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner.handle_established_inbound_connection(connection, peer, local, remote).map(Either::Left)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Side,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Side,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.book.member(&peer).is_none() {
            self.outside.insert(connection);
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port_use).map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, .. })
            | FromSwarm::AddressChange(AddressChange { connection_id, .. })
                if self.outside.contains(&connection_id) => {}
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
                if self.outside.remove(&connection_id) => {}
            FromSwarm::ListenFailure(failure) => {
                self.outside.remove(&failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            FromSwarm::DialFailure(failure) => {
                self.outside.remove(&failure.connection_id);
                self.inner.on_swarm_event(event);
            }
            _ => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, connection, event),
            Either::Right(event) => match event {},
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx).map(|event| event.map_in(Either::Left))
    }
}
