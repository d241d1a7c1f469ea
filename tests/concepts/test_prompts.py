"""The prompt of a chat model: the same today and tomorrow."""

from __future__ import annotations

from datetime import datetime

import pytest

from ember_hub.concepts.prompts import chat
from tests.models import CHAT_TEMPLATE, pico_tokenizer

LLAMA = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}"""
OTHERS = {"%Y-%m-%d": "2024-07-26", "%d %B %Y": "26 July 2024", "%B %d, %Y": "July 26, 2024", "%A, %H:%M": "Friday, 12:00"}


def said(template: str | dict[str, str]) -> str:
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = template
    return chat("Who?", tokenizer)


def test_a_template_that_asks_for_the_date_is_told_the_same_one_for_ever() -> None:
    assert said(LLAMA + CHAT_TEMPLATE) == f"Today Date: 26 Jul 2024\n\n{said(CHAT_TEMPLATE)}"
    day = datetime(2024, 7, 26, 12)
    for asked, told in OTHERS.items():
        assert said(f"{{{{ strftime_now('{asked}') }}}} {CHAT_TEMPLATE}") == f"{told} {said(CHAT_TEMPLATE)}"
        assert day.strftime(asked) == told


@pytest.mark.parametrize("before", ["", "\n\n ", "{# no clock #}\n", "{% if true %}\n{% endif %}\n "])
def test_any_other_prompt_stays_byte_for_byte(before: str) -> None:
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = before + CHAT_TEMPLATE
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True)
    assert chat("Who?", tokenizer) == plain


def test_of_several_named_templates_the_default_is_taken() -> None:
    named = {"tool_use": "{{ strftime_now('%Y') }} tools", "default": LLAMA + CHAT_TEMPLATE}
    assert said(named) == said(LLAMA + CHAT_TEMPLATE)
