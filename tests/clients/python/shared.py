"""What the scripts here share: where the server is, what is asked of it, and the one line of JSON in which a script says what it got."""

import json
import sys
from typing import Any

from pydantic import BaseModel, Field

base_url, model = sys.argv[1:3]
v1 = f"{base_url}/v1"
api_key = "none"
question = "What is 12 + 30?"


class Sum(BaseModel):
    """The sum of two numbers."""

    sum: int = Field(ge=0, le=999)


class Add(BaseModel):
    """Adds two numbers."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


def report(**results: Any) -> None:
    print(json.dumps(results))
