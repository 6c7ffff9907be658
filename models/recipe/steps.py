"""The steps of thought of each kind of task.

Every step is self-contained: what it needs stands a fixed distance back or behind a label written before, so that a model of five
layers can take it. Numbers are first laid out in labelled columns (`a81` is column a with the digits 8 and 1), words and lists are
rewritten at each step with what is left of them, results are carried along, and what was asked stands where the answer is decided.
`test_steps.py` recomputes every figure written here.
"""
COLUMNS = "abcdefghijkl"


def columns(a, b):
    """Both numbers digit by digit from the right, one labelled column each: 123 and 45 are `a35 b24 c10`."""
    a, b = str(a)[::-1], str(b)[::-1]
    width = max(len(a), len(b))
    return list(zip(COLUMNS, a.ljust(width, "0"), b.ljust(width, "0")))


def header(cols):
    return " ".join(c + x + y for c, x, y in cols)


def add_steps(a, b):
    cols, carry, done = columns(a, b), 0, ""
    lines = [header(cols)]
    for c, x, y in cols:
        total = int(x) + int(y) + carry
        done = str(total % 10) + done
        lines.append(f"{c}{x}+{y}+{carry}={total % 10},{total // 10} {done}")
        carry = total // 10
    return "\n".join(lines + [f"={a + b}"])


def sub_pass(cols):
    lines, borrow, done = [], 0, ""
    for c, x, y in cols:
        total = int(x) - int(y) - borrow
        done = str(total % 10) + done
        lines.append(f"{c}{x}-{y}-{borrow}={total % 10},{int(total < 0)} {done}")
        borrow = int(total < 0)
    return lines, borrow


def sub_steps(a, b):
    cols = columns(a, b)
    lines, borrow = sub_pass(cols)
    lines = [header(cols)] + lines
    if borrow:  # a borrow is left over: the result is negative, so subtract the other way round
        lines += ["swap"] + sub_pass([(c, y, x) for c, x, y in cols])[0]
    return "\n".join(lines + [f"={a - b}"])


def mul_steps(a, b):
    """One pass per digit of b, each adding into the result's columns A, B, C, ...: `a4*7+B6+1=B5,3` is 4*7+6+1 = 35."""
    xs, ys, result = str(a)[::-1], str(b)[::-1], {}
    lines = [" ".join(c + x for c, x in zip(COLUMNS, xs)) + " " + " ".join(c + y for c, y in zip("pqrs", ys))]
    for j, y in enumerate(ys):
        carry = 0
        lines.append("pqrs"[j] + y)
        for i, x in enumerate(xs):
            col = COLUMNS[i + j].upper()
            total = int(x) * int(y) + result.get(col, 0) + carry
            lines.append(f"{COLUMNS[i]}{x}*{y}+{col}{result.get(col, 0)}+{carry}={col}{total % 10},{total // 10}")
            result[col], carry = total % 10, total // 10
        col = COLUMNS[len(xs) + j].upper()
        result[col] = carry
        lines.append(f"={col}{carry}")
    lines.append(" ".join(c + str(result[c]) for c in sorted(result, reverse=True)))
    return "\n".join(lines + [f"={a * b}"])


def rest_steps(now, taken):
    """What is left of `now`: a rest has two digits at most, so the last two columns tell, and a third could only cancel."""
    units = now % 10 - taken % 10
    tens = now // 10 % 10 - taken // 10 % 10 - (units < 0)
    return f"{now % 10}-{taken % 10}={units % 10},{int(units < 0)} {now // 10 % 10}-{taken // 10 % 10}-{int(units < 0)}={tens % 10}"


def div_steps(a, b):
    """Long division. The multiples of b come first; each step then walks up them until one is too large, and takes the one
    before away in columns. A digit 0 takes nothing and an equal multiple leaves nothing."""
    table = [k * b for k in range(1, 10)]
    lines = [" ".join(f"{k}{m:03d}" for k, m in zip(range(1, 10), table))]
    lines.append(" ".join(c + x for c, x in zip(COLUMNS, str(a))))
    rest, quotient = 0, ""
    for c, x in zip(COLUMNS, str(a)):
        now = rest * 10 + int(x)
        line = f"{c}{x} {now:03d}:"
        for k, m in zip(range(1, 10), table):
            line += f" {k}{m:03d}" + ("<" if m < now else "=" if m == now else ">")
            if m >= now:
                break
        digit, rest = divmod(now, b)
        quotient += str(digit)
        line += f" {digit}{digit * b:03d}"
        if digit and rest:
            line += " " + rest_steps(now, digit * b)
        lines.append(f"{line} r{rest:02d} q{quotient}")
    return "\n".join(lines + [f"={a // b} r{a % b}"])


def cmp_steps(a, b, asked):
    """From the highest column down to the first that differs; the last line says what was asked (>, <, max or min), what was found
    and what follows: `>? < No`, `max? < second 52`."""
    cols = columns(a, b)
    lines = [header(cols)]
    for c, x, y in reversed(cols):
        found = "<" if x < y else ">" if x > y else "="
        lines.append(f"{c}{x}{found}{y}")
        if x != y:
            break
    if asked in "<>":
        follows = "Yes" if found == asked else "No"
    else:
        follows = f"second {b}" if found == {"max": "<", "min": ">"}[asked] else f"first {a}"
    return "\n".join(lines + [f"{asked}? {found} {follows}"])


def sort_steps(xs, descending=False):
    """Selection. Every number has a letter; each line names the least (or greatest) number left and its letter, and rewrites the
    list, in which the letter stands alone from then on."""
    left = dict(zip(COLUMNS, (f"{x:03d}" for x in xs)))
    lines = [" ".join(c + x for c, x in left.items())]
    for _ in xs:
        pick = (max if descending else min)(x for x in left.values() if x)
        where = next(c for c, x in left.items() if x == pick)  # of equal ones the first
        left[where] = ""
        lines.append(f"{'max' if descending else 'min'} {pick}{where}: {' '.join(c + x for c, x in left.items())}")
    return "\n".join(lines)


def count_steps(word, letter):
    """Each line takes the first letter off: whether it is the one, the count so far, what is left of the word."""
    lines, n = [f"{letter} 0 {word}"], 0
    for i, ch in enumerate(word):
        n += ch == letter
        lines.append(f"{ch}{'=' if ch == letter else '!'}{letter} {n} {word[i + 1:]}".rstrip())
    return "\n".join(lines)


def length_steps(word):
    lines = [f"0 {word}"]
    for i, ch in enumerate(word):
        lines.append(f"{ch} {i + 1} {word[i + 1:]}".rstrip())
    return "\n".join(lines)


def reverse_steps(word):
    """Each line moves one letter from the front of what is left to the front of what is done."""
    lines = [word]
    for i in range(1, len(word) + 1):
        lines.append(f"{word[i:]} {word[:i][::-1]}".strip())
    return "\n".join(lines)


def chain_steps(start, changes):
    """`start`, then one operation after another, each with its own steps: the pieces that a follow-up question has too."""
    lines, total = [], start
    for op, y in changes:
        lines += [f"{total}{op}{y}", {"+": add_steps, "-": sub_steps, "*": mul_steps}[op](total, y)]
        total = {"+": total + y, "-": total - y, "*": total * y}[op]
    return "\n".join(lines), total
