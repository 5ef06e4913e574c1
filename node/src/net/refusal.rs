//! Everything the network refuses, by name: what an operator reads in the log is what the metric counts.

/// Why something from outside was refused. Its [`name`](Refusal::name) is the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// A connection by a key that is neither a member's nor an admitted client's.
    Stranger,
    /// A connection beyond the limits.
    TooManyConnections,
    /// A member's key, but in another mesh.
    WrongMesh,
    /// A connection of a key whose role just changed, while one in its old role is still open.
    RoleChanging,
    /// More streams than a peer may have.
    TooManyStreams,
    /// A frame above its protocol's limit, or a stream cut inside a frame.
    BadFrame,
    /// Gossip above its topic's limit.
    Oversized,
    /// Bytes that are not the canonical form of what they should be.
    Malformed,
    /// A signature that does not hold.
    Forged,
    /// Signed by somebody who is not a member.
    NotMember,
    /// Not newer than what the same author said before.
    Replayed,
    /// More than can be verified in time.
    Overload,
    /// A report about another client than the one that is connected.
    NotItsOwn,
    /// Reports that follow each other too fast.
    TooOften,
    /// A request for a part that is not offered to this peer.
    NotOffered,
    /// A chunk whose bytes are not those of its hash, twice.
    CorruptChunk,
    /// A manifest that cannot be laid out, or is not the one that was agreed on.
    BadManifest,
    /// More gossip of one neighbour than is taken of one.
    Flood,
}

impl Refusal {
    /// All of them, for tests and documentation.
    pub const ALL: [Self; 18] = [
        Self::Stranger,
        Self::TooManyConnections,
        Self::WrongMesh,
        Self::RoleChanging,
        Self::TooManyStreams,
        Self::BadFrame,
        Self::Oversized,
        Self::Malformed,
        Self::Forged,
        Self::NotMember,
        Self::Replayed,
        Self::Overload,
        Self::NotItsOwn,
        Self::TooOften,
        Self::NotOffered,
        Self::CorruptChunk,
        Self::BadManifest,
        Self::Flood,
    ];

    /// For logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::TooManyConnections => "too-many-connections",
            Self::WrongMesh => "wrong-mesh",
            Self::RoleChanging => "role-changing",
            Self::TooManyStreams => "too-many-streams",
            Self::BadFrame => "bad-frame",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::NotMember => "not-member",
            Self::Replayed => "replayed",
            Self::Overload => "overload",
            Self::NotItsOwn => "not-its-own",
            Self::TooOften => "too-often",
            Self::NotOffered => "not-offered",
            Self::CorruptChunk => "corrupt-chunk",
            Self::BadManifest => "bad-manifest",
            Self::Flood => "flood",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
