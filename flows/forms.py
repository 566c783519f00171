"""The parameters of the flows, as forms in the Prefect UI show them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from config.errors import RowError
from sources.spec import FORMATS, InputSpec
from stages.chain import CAPTION, EXTRACT, RESAMPLE, REWRITE


class Form(BaseModel):
    """Unknown fields are refused, as everywhere."""

    model_config = ConfigDict(extra="forbid")


class IfBusy(StrEnum):
    """What to do while another run writes to the same root."""

    WAIT = "wait"
    REFUSE = "refuse"


InputFormat = StrEnum("InputFormat", {name.upper(): name for name in ("auto", *FORMATS)})
CALLED = (CAPTION, RESAMPLE, EXTRACT, REWRITE)
Stage = StrEnum("Stage", {"ANY": "any", **{name.upper(): name for name in CALLED}})
ErrorClass = StrEnum(
    "ErrorClass",
    {"ANY": "any", **{kind.__name__: kind.__name__ for kind in RowError.__subclasses__()}},
)


class Input(Form):
    """Images and prompts."""

    location: str = Field(
        description="A folder or glob of images, a .jsonl, .csv, .parquet or .json file, or a "
        "`datasets` directory, as the worker sees it."
    )
    format: InputFormat = Field(
        default=InputFormat.AUTO, description="auto: by what the location is."
    )
    prompts: list[str] = Field(
        default=[], description="Asked of every image, where rows have none."
    )
    prompts_file: str | None = Field(
        default=None, description="The same from a .txt or .json file."
    )
    columns: dict[str, str] = Field(
        default={},
        description='Our names to yours, e.g. {"prompt": "question"}; ours: image, prompt, id.',
    )
    images_root: str | None = Field(
        default=None, description="Where relative image paths start; the input's folder if empty."
    )
    split: str | None = Field(default=None, description="The split of a `datasets` directory.")

    def spec(self) -> InputSpec:
        return InputSpec(**{**self.model_dump(), "prompts": tuple(self.prompts)})


class Evaluation(StrEnum):
    """What is measured before and after training."""

    NONE = "none"
    MINIATURE = "miniature"


class TrainAfter(Form):
    """Whether training starts when the dataset is done, and from what dataset on."""

    start: bool = Field(
        default=False, description="Start the deployment below when the dataset is usable."
    )
    min_rows: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Rows that the dataset must have."
    )
    max_drop_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="The share of rows that may have been dropped."
    )
    deployment: str = Field(default="train/train", description="Flow and deployment that trains.")
    recipe: str = Field(
        default="llava-1.5-7b-symmpo",
        description="The training recipe: a name, or a YAML file's path.",
    )
    overrides: list[str] = Field(
        default=[], description="KEY=VALUE of it, e.g. optimiser.epochs=1."
    )
    evaluation: Evaluation = Field(
        default=Evaluation.NONE, description="What is measured before and after."
    )
