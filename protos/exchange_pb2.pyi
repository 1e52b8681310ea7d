from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Caller(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOBODY: _ClassVar[Caller]
    ANYBODY: _ClassVar[Caller]
    SITE: _ClassVar[Caller]
    REPLACED_SITE: _ClassVar[Caller]
NOBODY: Caller
ANYBODY: Caller
SITE: Caller
REPLACED_SITE: Caller
CALLER_FIELD_NUMBER: _ClassVar[int]
caller: _descriptor.FieldDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("secret", "tls_request", "signing_request", "witness_key", "tls_chain", "signing_chain")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    TLS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    WITNESS_KEY_FIELD_NUMBER: _ClassVar[int]
    TLS_CHAIN_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    tls_request: bytes
    signing_request: bytes
    witness_key: bytes
    tls_chain: bytes
    signing_chain: bytes
    def __init__(self, secret: _Optional[bytes] = ..., tls_request: _Optional[bytes] = ..., signing_request: _Optional[bytes] = ..., witness_key: _Optional[bytes] = ..., tls_chain: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("confirmed", "tls_chain", "signing_chain", "pseudonym")
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    TLS_CHAIN_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    PSEUDONYM_FIELD_NUMBER: _ClassVar[int]
    confirmed: bool
    tls_chain: bytes
    signing_chain: bytes
    pseudonym: str
    def __init__(self, confirmed: _Optional[bool] = ..., tls_chain: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ..., pseudonym: _Optional[str] = ...) -> None: ...

class ContactRequest(_message.Message):
    __slots__ = ("known_size", "first_leaf", "repository")
    class RepositoryEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KNOWN_SIZE_FIELD_NUMBER: _ClassVar[int]
    FIRST_LEAF_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    known_size: int
    first_leaf: int
    repository: _containers.ScalarMap[str, int]
    def __init__(self, known_size: _Optional[int] = ..., first_leaf: _Optional[int] = ..., repository: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ContactReply(_message.Message):
    __slots__ = ("checkpoint", "consistency", "revocations", "signing_chain", "studies", "blueprints", "releases", "first_leaf", "leaves", "witnessed", "certificate_revocations", "pseudonym_salt", "authority_revocations", "bases", "repository")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINTS_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    FIRST_LEAF_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    PSEUDONYM_SALT_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    consistency: _containers.RepeatedScalarFieldContainer[bytes]
    revocations: bytes
    signing_chain: bytes
    studies: _containers.RepeatedCompositeFieldContainer[StudyEntry]
    blueprints: _containers.RepeatedCompositeFieldContainer[BlueprintStatus]
    releases: _containers.RepeatedCompositeFieldContainer[ReleaseEntry]
    first_leaf: int
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    witnessed: _containers.RepeatedScalarFieldContainer[str]
    certificate_revocations: bytes
    pseudonym_salt: bytes
    authority_revocations: bytes
    bases: _containers.RepeatedCompositeFieldContainer[ReleaseEntry]
    repository: _containers.RepeatedCompositeFieldContainer[RepositoryFile]
    def __init__(self, checkpoint: _Optional[str] = ..., consistency: _Optional[_Iterable[bytes]] = ..., revocations: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ..., studies: _Optional[_Iterable[_Union[StudyEntry, _Mapping]]] = ..., blueprints: _Optional[_Iterable[_Union[BlueprintStatus, _Mapping]]] = ..., releases: _Optional[_Iterable[_Union[ReleaseEntry, _Mapping]]] = ..., first_leaf: _Optional[int] = ..., leaves: _Optional[_Iterable[bytes]] = ..., witnessed: _Optional[_Iterable[str]] = ..., certificate_revocations: _Optional[bytes] = ..., pseudonym_salt: _Optional[bytes] = ..., authority_revocations: _Optional[bytes] = ..., bases: _Optional[_Iterable[_Union[ReleaseEntry, _Mapping]]] = ..., repository: _Optional[_Iterable[_Union[RepositoryFile, _Mapping]]] = ...) -> None: ...

class RepositoryFile(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class LeavesRequest(_message.Message):
    __slots__ = ("first",)
    FIRST_FIELD_NUMBER: _ClassVar[int]
    first: int
    def __init__(self, first: _Optional[int] = ...) -> None: ...

class LeavesReply(_message.Message):
    __slots__ = ("leaves",)
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, leaves: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CosignRequest(_message.Message):
    __slots__ = ("size", "signature")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    size: int
    signature: str
    def __init__(self, size: _Optional[int] = ..., signature: _Optional[str] = ...) -> None: ...

class CosignReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudyEntry(_message.Message):
    __slots__ = ("manifest", "recipient_key", "open", "delegation")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_KEY_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DELEGATION_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    recipient_key: bytes
    open: bool
    delegation: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., recipient_key: _Optional[bytes] = ..., open: _Optional[bool] = ..., delegation: _Optional[bytes] = ...) -> None: ...

class LogEntry(_message.Message):
    __slots__ = ("leaf", "receipt")
    LEAF_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    leaf: bytes
    receipt: str
    def __init__(self, leaf: _Optional[bytes] = ..., receipt: _Optional[str] = ...) -> None: ...

class BlueprintStatus(_message.Message):
    __slots__ = ("digest", "study_digest", "state", "reason", "entries")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STUDY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    study_digest: str
    state: str
    reason: str
    entries: _containers.RepeatedCompositeFieldContainer[LogEntry]
    def __init__(self, digest: _Optional[str] = ..., study_digest: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ...) -> None: ...

class ReleaseEntry(_message.Message):
    __slots__ = ("envelope", "published", "withdrawn", "withdrawal", "signing_chain", "earlier")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWAL_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    EARLIER_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    published: LogEntry
    withdrawn: bool
    withdrawal: _containers.RepeatedCompositeFieldContainer[LogEntry]
    signing_chain: bytes
    earlier: _containers.RepeatedCompositeFieldContainer[LogEntry]
    def __init__(self, envelope: _Optional[bytes] = ..., published: _Optional[_Union[LogEntry, _Mapping]] = ..., withdrawn: _Optional[bool] = ..., withdrawal: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ..., signing_chain: _Optional[bytes] = ..., earlier: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("tls_request",)
    TLS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    tls_request: bytes
    def __init__(self, tls_request: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("tls_chain",)
    TLS_CHAIN_FIELD_NUMBER: _ClassVar[int]
    tls_chain: bytes
    def __init__(self, tls_chain: _Optional[bytes] = ...) -> None: ...

class RekeyRequest(_message.Message):
    __slots__ = ("order", "signing_chain")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    order: bytes
    signing_chain: bytes
    def __init__(self, order: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ...) -> None: ...

class RekeyReply(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    def __init__(self, chain: _Optional[bytes] = ...) -> None: ...

class BeginRequest(_message.Message):
    __slots__ = ("study_digest", "envelope", "signing_chain", "wrapped_key", "outbound", "officer")
    STUDY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    WRAPPED_KEY_FIELD_NUMBER: _ClassVar[int]
    OUTBOUND_FIELD_NUMBER: _ClassVar[int]
    OFFICER_FIELD_NUMBER: _ClassVar[int]
    study_digest: str
    envelope: bytes
    signing_chain: bytes
    wrapped_key: bytes
    outbound: bytes
    officer: bytes
    def __init__(self, study_digest: _Optional[str] = ..., envelope: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ..., wrapped_key: _Optional[bytes] = ..., outbound: _Optional[bytes] = ..., officer: _Optional[bytes] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("digest", "offset", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    data: bytes
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadStatus(_message.Message):
    __slots__ = ("durable", "blueprint")
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    durable: int
    blueprint: BlueprintStatus
    def __init__(self, durable: _Optional[int] = ..., blueprint: _Optional[_Union[BlueprintStatus, _Mapping]] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("envelope", "signing_chain")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    signing_chain: bytes
    def __init__(self, envelope: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("envelope", "signing_chain")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SIGNING_CHAIN_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    signing_chain: bytes
    def __init__(self, envelope: _Optional[bytes] = ..., signing_chain: _Optional[bytes] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("entry",)
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    entry: LogEntry
    def __init__(self, entry: _Optional[_Union[LogEntry, _Mapping]] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("release", "offset")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    release: str
    offset: int
    def __init__(self, release: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadChunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
