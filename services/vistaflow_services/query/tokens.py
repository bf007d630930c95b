"""The words of a query before they are a tree.

Two things are not in the parser's grammar and are joined into one word each: `reviews@3`, a table
with a version, and `:name`, a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot.dialects.dialect import Dialect as SqlglotDialect
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from vistaflow_services.datasets.expressions import too_deep
from vistaflow_services.query.mistakes import Position, QueryError

MAX_CHARACTERS = 100_000
MAX_NESTING = 60
"""Most open parentheses at one place: the parser recurses."""

_DECIMAL = re.compile(r"\d+\.\d+|\d{10,}")
_OPENING = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
_CLOSING = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)
_NAMES = (TokenType.VAR, TokenType.IDENTIFIER)
_AFTER_VALUE = (*_NAMES, *_CLOSING, TokenType.STRING, TokenType.NUMBER)


def position_of(text: str, offset: int) -> Position:
    """The place of a character."""
    before = text[:offset]
    return Position(line=before.count("\n") + 1, column=offset - before.rfind("\n"))


def read_tokens(text: str, grammar: SqlglotDialect, source: str) -> list[Token]:
    """The words of a text.

    Raises:
        QueryError: It is empty or too long, or a quote does not end.
    """
    if not text.strip():
        raise QueryError("is empty; write a SELECT", None, source)
    if len(text) > MAX_CHARACTERS:
        problem = f"has {len(text):,} characters; at most {MAX_CHARACTERS:,} are allowed"
        raise QueryError(problem, None, source)
    if "\0" in text:
        raise QueryError("has a zero byte", position_of(text, text.index("\0")), source)
    try:
        return list(grammar.tokenize(text))
    except SqlglotError:
        problem = "has a quote or a comment that does not end"
        raise QueryError(problem, position_of(text, _open_quote(text)), source) from None


def _open_quote(text: str) -> int:
    """Where the quote or the comment begins that does not end."""
    offset = 0
    while offset < len(text):
        for mark, end in (("'", "'"), ('"', '"'), ("/*", "*/"), ("--", "\n")):
            if text.startswith(mark, offset):
                close = text.find(end, offset + len(mark))
                if close < 0:
                    return offset
                offset = close + len(end) - 1
                break
        offset += 1
    return 0


def check(tokens: Sequence[Token], text: str, source: str, lenient: bool) -> None:
    """Finds what the parser would not.

    Args:
        tokens: The words.
        text: The text.
        source: The field that has it.
        lenient: Whether a comma may end a list, as in DuckDB.

    Raises:
        QueryError: There are two statements, unbalanced or too many parentheses, or a comma too
            many.
    """
    deep = too_deep(tokens, MAX_NESTING)
    depth = 0
    following = [*tokens[1:], None]
    for token, after in zip(tokens, following, strict=True):
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        problem = ""
        if token is deep:
            problem = "is nested too deeply; write parts of it as WITH"
        elif depth < 0:
            problem = f"`{token.text}` closes what is not open"
        elif token.token_type is TokenType.SEMICOLON and after is not None:
            problem = "is more than one statement; remove the semicolon and what follows"
        elif token.token_type is TokenType.COMMA:
            ends = after is None or after.token_type in (*_CLOSING, TokenType.FROM)
            if after is not None and after.token_type is TokenType.COMMA:
                problem = "has two commas in a row"
            elif ends and not lenient:
                problem = "has a comma that nothing follows"
        if problem:
            raise QueryError(problem, position_of(text, token.start), source)


def joined(tokens: Sequence[Token], text: str) -> tuple[list[Token], dict[int, str]]:
    """The words with versions and parameters as one word each.

    Returns:
        The words, and the name of each parameter by the offset of its word.
    """
    result: list[Token] = []
    marks: dict[int, str] = {}
    index = 0
    while index < len(tokens):
        token = tokens[index]
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        before = result[-1] if result else None
        touches_before = before is not None and before.end + 1 == token.start
        touches_after = after is not None and token.end + 1 == after.start
        word = after is not None and (after.text[:1].isalnum() or after.text[:1] == "_")
        index += 1
        if token.token_type is TokenType.DECIMAL and after and _DECIMAL.fullmatch(after.text):
            # `DECIMAL '1.10'`: the parser would make it a cast, without its digits.
            result.append(
                Token(TokenType.NUMBER, after.text, after.line, after.col, token.start, after.end)
            )
            index += 1
        elif after is None or not touches_after or not word:
            result.append(token)
        elif (
            token.token_type is TokenType.PARAMETER
            and before is not None
            and touches_before
            and (before.token_type in _NAMES or before.text.isidentifier())
        ):
            # `reviews@3.stars`: the number took the dot.
            dotted = after.token_type is TokenType.NUMBER and after.text.endswith(".")
            version = after.text.rstrip(".") if dotted else after.text
            result[-1] = _word(f"{before.text}@{version}", before, after)
            if dotted:
                result.append(
                    Token(TokenType.DOT, ".", after.line, after.col, after.end, after.end)
                )
            index += 1
        elif (
            token.token_type is TokenType.COLON
            and after.token_type is not TokenType.NUMBER
            and not (touches_before and before and before.token_type in _AFTER_VALUE)
        ):
            marks[token.start] = text[after.start : after.end + 1]
            result.append(_word(f":{after.text}", token, after))
            index += 1
        else:
            result.append(token)
    return result, marks


def _word(name: str, first: Token, last: Token) -> Token:
    return Token(
        TokenType.IDENTIFIER, name, first.line, last.col, first.start, last.end, first.comments
    )
