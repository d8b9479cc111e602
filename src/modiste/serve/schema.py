"""Request bodies, validated by pydantic and described in the server's OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=2000)]
Row = Annotated[int, Field(ge=0, lt=2**63)]
ENTRIES = 10_000
"""Maximum number of entries of a body's lists and objects together; pydantic reports on each one that is wrong."""
LONGEST_KEY = 200
"""Maximum length of an object's keys; pydantic repeats them in each error."""
IMAGE = "A data URL (`data:image/jpeg;base64,…`) or the base64 of an image file."


class Bounded(BaseModel):
    """A request body of at most `ENTRIES` entries, with keys of at most `LONGEST_KEY` characters."""

    @model_validator(mode="before")
    @classmethod
    def _is_bounded(cls, given: object) -> object:
        """Check the size before anything is validated."""
        left, count = [given], 0
        while left:
            node = left.pop()
            if isinstance(node, (list, dict)):
                count += len(node)
                if count > ENTRIES:
                    raise ValueError(f"the body has more than {ENTRIES:,} entries: send fewer at a time")
                left += node if isinstance(node, list) else node.values()
            if isinstance(node, dict) and max(map(len, node), default=0) > LONGEST_KEY:
                raise ValueError(f"the body has a key of more than {LONGEST_KEY} characters: send a shorter one")
        return given


class Body(Bounded):
    """A bounded request body; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Filter(Body):
    """Allowed values of a column, or the range of a numeric one."""

    values: list[Text] | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Filter:
        if self.values is None and self.min is None and self.max is None:
            raise ValueError("a filter needs values, min or max")
        return self


class SearchBody(Body):
    """A search by text, photo or product, and text to avoid; without a query, a listing."""

    text: Text | None = Field(default=None, description="Text query.", examples=["red running shoes"])
    image: str | None = Field(default=None, description=IMAGE)
    like: Text | None = Field(default=None, description="Id of a product to find similar ones of.")
    minus: Text | None = Field(default=None, description="Text that results should not resemble.")
    where: Text | None = Field(default=None, description="A filter in SQL.", examples=["price < 50 and gender = 'Men'"])
    filters: dict[str, Filter] = Field(default={}, description="Filters by column, in addition to `where`.")
    weights: dict[Literal["text", "image", "like", "minus"], float] = Field(
        default={}, description="Weights of the parts of the query."
    )
    hybrid: bool = Field(
        default=False, description="Also search the full text, for SKUs and names that a model cannot know."
    )
    group: bool = Field(default=True, description="One result per product rather than per photo.")
    k: int = Field(default=20, ge=1, description="Number of results.")
    facets: bool = Field(default=False, description="Count the facet values of the products that pass the filters.")
    index: Literal["main", "compare"] = "main"


class PhotoBody(Body):
    """A photo of the index, or an uploaded one."""

    row: Row | None = Field(default=None, description="The row of a photo in the index.")
    image: str | None = Field(default=None, description=IMAGE)
    index: Literal["main", "compare"] = Field(default="main", description="The index of the row, and of the model.")

    @model_validator(mode="after")
    def _one_photo(self) -> PhotoBody:
        if (self.row is None) == (self.image is None):
            raise ValueError("give either row or image")
        return self


class ZeroShotBody(PhotoBody):
    """Candidate labels for a photo."""

    labels: list[Text] = Field(min_length=1, examples=[["dress", "shirt"]])
    prompts: list[Text] = Field(default=["a photo of a {}"], min_length=1, description="Templates, each with one `{}`.")


class AttributeBody(Body):
    """Zero-shot classification of the catalogue's photos by one of its columns."""

    attribute: Text
    where: Text | None = None
    words: dict[str, Text] = Field(default={}, description="Word to use in the prompts, by value of the column.")
    prompts: list[Text] = Field(default=["a photo of a {}"], min_length=1)


class GroundBody(PhotoBody):
    """Phrases to ground on a photo."""

    phrases: list[Text] = Field(min_length=1, max_length=16, examples=[["collar", "sleeves"]])
    method: Literal["patches", "cam", "gradcam", "occlusion"] = "patches"


class EmbeddingsBody(Bounded):
    """OpenAI's request for embeddings; an input may also be an image, as a data URL or `{"image": …}`."""

    input: str | dict[Literal["image", "text"], str] | list[str | dict[Literal["image", "text"], str]]
    model: Text | None = None
    dimensions: int | None = Field(
        default=None, ge=1, description="Truncate embeddings to this length and renormalise (Matryoshka)."
    )
    encoding_format: Literal["float", "base64"] = "float"
    user: Text | None = None


class CompareBody(Body):
    """One query for both indexes."""

    text: Text = ""
    where: Text | None = None
    k: int = Field(default=20, ge=1)


class QueriesBody(Body):
    """A query file for a blind comparison.

    One query per line, optionally followed by a comma and a product id.
    """

    file: Annotated[str, Field(max_length=1_000_000)]


class JudgeBody(QueriesBody):
    """The marked products of the interleaved lists, in the order of the queries."""

    seed: Text
    versions: dict[str, Any]
    picked: list[list[str]]
