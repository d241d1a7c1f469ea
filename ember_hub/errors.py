"""Everything that can go wrong for a reason the user can act on.

    EmberHubError
    ├── UsageError            the command line asks for something that cannot be (exit code 2)
    │   └── ConfigError       a setting, flag or TOML key is unknown or out of range
    ├── SourceError           the base model
    │   ├── ModelNotFound     no such repository, folder or file
    │   ├── GatedModel        the repository needs an accepted licence or a token
    │   ├── UnsupportedModel  it is there, but not a causal decoder we can edit
    │   ├── CorruptCheckpoint truncated, inconsistent, or holding values that are not numbers
    │   ├── NoRangedReads     the server gives files as a whole only, or not the part that was asked for
    │   └── WrongBase         what was made for one base meets another
    ├── ConceptError          the concept pack
    │   ├── PackNotFound
    │   └── PackInvalid
    ├── FeatureError          the factorization and what it means
    │   ├── NoConceptTokens   the vocabulary has no row of the concept's own
    │   └── NoFeatureSelected
    ├── EditError
    │   ├── EmptyEdit
    │   ├── PatchInvalid      a patch folder that is damaged, or cannot be what was asked for
    │   └── ShapeMismatch
    ├── EvaluationError
    │   ├── BaselineAtChance  the base does not know the concept: nothing can be shown
    │   └── JudgeUnavailable  the model that shall judge answers cannot be asked, or does not answer with a number
    ├── RunError              the run folder
    │   ├── RunBusy           another process works on the same folder
    │   ├── RunNotFound       no finished run in the folder
    │   ├── NotEnoughMemory   the plan does not fit into this machine
    │   └── DiskError         full, read-only or unreadable
    ├── AutomationError       watching for releases, and starting work elsewhere
    └── PublishError
        ├── NotVerified       the exported files do not reload to the verified model
        ├── NotReproduced     the same recipe did not give the same result
        ├── GateFailed        a measured value is outside a limit the user set (exit code 3)
        ├── PushRejected      the Hub or the target repository says no
        ├── ConsentNeeded     a public result of a base that is not public, and nobody said yes (exit code 2)
        └── HashMismatch      what lies on the Hub is not what was sent

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations


class EmberHubError(Exception):
    """An error with a way out: `message` says what happened, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EmberHubError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class SourceError(EmberHubError):
    pass


class ModelNotFound(SourceError):
    pass


class GatedModel(SourceError):
    pass


class UnsupportedModel(SourceError):
    pass


class CorruptCheckpoint(SourceError):
    pass


class NoRangedReads(SourceError):
    pass


class WrongBase(SourceError):
    pass


class ConceptError(EmberHubError):
    pass


class PackNotFound(ConceptError):
    exit_code = 2


class PackInvalid(ConceptError):
    pass


class FeatureError(EmberHubError):
    pass


class NoConceptTokens(FeatureError):
    pass


class NoFeatureSelected(FeatureError):
    pass


class EditError(EmberHubError):
    pass


class EmptyEdit(EditError):
    pass


class PatchInvalid(EditError):
    pass


class ShapeMismatch(EditError):
    pass


class EvaluationError(EmberHubError):
    pass


class BaselineAtChance(EvaluationError):
    pass


class JudgeUnavailable(EvaluationError):
    pass


class RunError(EmberHubError):
    pass


class RunBusy(RunError):
    pass


class RunNotFound(RunError):
    pass


class NotEnoughMemory(RunError):
    pass


class DiskError(RunError):
    pass


class AutomationError(EmberHubError):
    pass


class PublishError(EmberHubError):
    pass


class NotVerified(PublishError):
    pass


class NotReproduced(PublishError):
    pass


class GateFailed(PublishError):
    exit_code = 3


class PushRejected(PublishError):
    pass


class ConsentNeeded(PublishError):
    exit_code = 2


class HashMismatch(PublishError):
    pass
