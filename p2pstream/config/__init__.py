"""What the operator wrote: TOML in, frozen values out, or every fault at once (spec §1).

| module | what it is |
|---|---|
| `scalars`, `hosts`, `secret` | one value of one field: parse, format, compare |
| `model` | the frozen classes; field names are TOML keys; defaults stand there |
| `kinds`, `fields` | what every key may hold and what it is for: one table per class |
| `document`, `locate`, `disk` | the text of all files, merged; on which line a key stands |
| `unchanged` | which routes a reload need not read again |
| `pem` | whether the certificates, keys and CAs that it names will do |
| `read` | TOML values -> parsed values, by the tables of `fields` |
| `load` | the way in: `load(path)`, `load_with_warnings(path)`, `load_text(text)` |
| `check`, `check_routes`, `shadow`, `carriers`, `finding` | rules across fields |
| `wording` | how faults are worded |
| `plan`, `diff` | what a reload from one configuration to another would do |
| `write` | the TOML of an agent, for its own file |
| `show`, `declared` | the TOML of any object, without its secrets, and where it stands |
| `schema`, `reference` | JSON Schema and `conf/reference.toml`, from the tables of `fields` |

Everything but `disk` and `pem` is pure; they read what a configuration names, and nothing else.
"""
