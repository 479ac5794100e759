"""Every error that nbhelpers raises, as one tree.

NbhelpersError
├── ConfigError            the config is wrong: every problem at once, each with its key, value and remedy
├── DocumentError          one file could not be read (ingest turns it into a row with its reason)
├── RunFolderError         something a step needs is not in the run folder, or cannot be written to it
├── NotEnoughChunksError   too few texts for the wanted test and train sets
├── ModelNotFoundError     a transformers model is in no folder, cache or package, and the hub did not give it
├── PromptError            a prompt file is missing, malformed, or lacks a placeholder that it needs
├── ChatError              an LLM could not be asked
│   ├── ChatRefusedError   asking again would not help: wrong key, unknown model, bad request
│   ├── EndpointError      the endpoint could not be reached, or kept failing
│   └── CallFailedError    this one call kept failing while others were answered (labeling makes it a failed label)
├── BudgetError            the next call could cost more than is left of cost.budget_usd
├── LabelError             a reply that names no class (labeling turns it into a failed label with its reason)
├── EvaluationError        figures were asked for that the data cannot give
└── ClassifierError        a classifier could not be trained, saved or loaded
"""


class NbhelpersError(Exception):
    """What was wrong, the value, and what to do, in one sentence that a person can act on."""


class ConfigError(NbhelpersError):
    pass


class DocumentError(NbhelpersError):
    pass


class RunFolderError(NbhelpersError):
    pass


class NotEnoughChunksError(NbhelpersError):
    pass


class ModelNotFoundError(NbhelpersError):
    pass


class PromptError(NbhelpersError):
    pass


class ChatError(NbhelpersError):
    """`lost`: the tokens sent and received for nothing, where that is known; None where it is not."""

    lost: tuple[int, int] | None = None


class ChatRefusedError(ChatError):
    pass


class EndpointError(ChatError):
    pass


class CallFailedError(ChatError):
    lost: tuple[int, int]

    def __init__(self, message: str, lost: tuple[int, int] = (0, 0)) -> None:
        super().__init__(message)
        self.lost = lost


class BudgetError(NbhelpersError):
    pass


class LabelError(NbhelpersError):
    pass


class EvaluationError(NbhelpersError):
    pass


class ClassifierError(NbhelpersError):
    pass
