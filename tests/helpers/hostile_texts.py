"""Texts that try to become markup."""

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "https://evil.example/login www.evil.example",
    "a | b | c ` ``` ~~~ <!-- --> ---",
    "line\n\n# break\n| x | y |\n---\n",
    "{{ 7 * 7 }} {% raw %} $x$ &lt;b&gt; **bold** _it_ @everyone",
)
