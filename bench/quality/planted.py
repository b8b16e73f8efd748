"""Invented secrets from a seed, in the shapes that vendors, files and people give them; it knows no rule of ours."""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

LETTERS, HEX = string.ascii_letters, "0123456789abcdef"
ALPHABETS = {
    "A": LETTERS + string.digits,
    "w": LETTERS + string.digits + "_-",
    "b": LETTERS + string.digits + "+/",
    "h": HEX,
    "l": string.ascii_lowercase + string.digits,
    "U": string.ascii_uppercase + "234567",
    "d": string.digits,
}
# {A36} are 36 letters or digits; the others are above.
VENDORS = """
sk-proj-{w74}T3BlbkFJ{w74}|sk-ant-api03-{w93}AA|AIza{w35}|AKIA{U16}|ghp_{A36}|gho_{A36}|github_pat_{A22}_{A59}|glpat-{w20}|
xoxb-{d12}-{d13}-{A24}|xapp-1-A{U10}-{d13}-{h64}|https://hooks.slack.com/services/T{U10}/B{U10}/{A24}|sk_live_{A24}|
rk_live_{A24}|whsec_{A32}|SK{h32}|SG.{w22}.{w43}|key-{h32}|{h32}-us14|npm_{A36}|pypi-AgEIcHlwaS5vcmc{w80}|hf_{A34}|
{d10}:AA{w33}|MT{A22}.G{w5}.{w38}|shpat_{h32}|sq0atp-{w22}|dop_v1_{h64}|HRKU-AA{w58}|dapi{h32}|lin_api_{A40}|ntn_{d11}{A35}|
figd_{w40}|PMAK-{h24}-{h34}|NRAK-{U27}|glsa_{A32}_{h8}|hvs.CAES{w90}|{A14}.atlasv1.{w64}|dp.pt.{A43}|dckr_pat_{w27}|
gsk_{A52}|r8_{A37}|pplx-{A48}|sk-or-v1-{h64}|sbp_{h40}|pscale_tkn_{w43}|pat{A14}.{h64}|ATATT3xFfGF0{w180}|EAAC{A120}|
GOCSPX-{w28}|ya29.a0{w120}|tskey-auth-{A12}-{A32}|xkeysib-{h64}-{A16}|re_{A8}_{A24}|pul-{h40}|rubygems_{h48}|
eyJhbGciOiJIUzI1NiJ9.eyJzdWIi{A40}.{w43}|DefaultEndpointsProtocol=https;AccountName=box;AccountKey={b86}==|CFPAT-{w43}|
sk-{A48}|phc_{A43}|nfp_{A36}|EZAK{A54}|lip_{A20}|AGE-SECRET-KEY-1{U58}|lsv2_pt_{h32}_{h10}|xai-{A80}|pk.eyJ{A60}.{w22}
"""
NAMED_KEYS = (
    *(
        "api_key = {l32}",
        'API_KEY="{A40}"',
        "apiKey: '{h32}'",
        "token: {A32}",
        "access_token={A28}",
        "x-api-key: {l24}",
    ),
    *("auth_token => '{h40}'", "client_secret: {w32}", 'aws_secret_access_key = "{b40}"', "SECRET_KEY={w50}"),
    *("Authorization: Bearer {A40}", "our API key is {A24}, keep it", "the token for the bot: {w30}", "api-key={h16}"),
    *('{{"token": "{A36}"}}', "export GITLAB_TOKEN={A20}", "https://api.example.org/v1/list?api_key={l32}&page=2"),
    *("Mein API-Schlüssel lautet {A32}.", "La clave de la API es {l40}", "ma clé API : {h32}", "la chiave API è {A30}"),
    *("klucz API to {A32}", "API-nyckeln är {l32}", "API anahtarım: {A32}", "ключ API: {h32}", "APIキーは{A32}です"),
)
# {p} is a password.
ASSIGNED = (
    *(
        "DB_PASSWORD={p}",
        "POSTGRES_PASSWORD: {p}",
        "MYSQL_ROOT_PASSWORD='{p}'",
        "export PGPASSWORD={p}",
        "password = {p}",
    ),
    *('{{"user": "ann", "password": "{p}"}}', '"db_password" : "{p}",', "database:\n  user: ann\n  password: {p}\n"),
    *(
        "spring.datasource.password={p}",
        "<password>{p}</password>",
        "Server=db;Uid=ann;Pwd={p};",
        "admin_passwd: '{p}'",
    ),
    *("ftp://ann:{p}@files.example.org/x", "postgres://ann:{p}@db:5432/app", "curl -u ann:{p} https://example.org/"),
    *("machine example.org login ann password {p}", "wifi:\n  ssid: Home\n  psk: {p}", "sshpass -p {p} ssh ann@box"),
    *(
        "REDIS_PASS={p}",
        "smtp_password: {p} # do not share",
        "ansible_become_pass: {p}",
        "--password={p}",
        "userPassword={p}",
    ),
)
SPOKEN = """
en My wifi password is {p}|The password for the router is {p}.|{p} is my password|password: {p}|Use {p} as the password
de Mein Passwort ist {p}|Das WLAN-Passwort lautet: {p}|Das Kennwort für den Rechner ist {p}.|Passwort: {p}
fr Mon mot de passe est {p}|Le mot de passe du wifi, c'est {p}|mot de passe : {p}|mdp: {p}
es Mi contraseña es {p}|La contraseña del wifi es {p}.|contraseña: {p}|La clave del router es {p}
it La mia password è {p}|La password del wifi è {p}.|parola d'ordine: {p}
pt A minha senha é {p}|A palavra-passe do portátil é {p}|senha: {p}
nl Mijn wachtwoord is {p}|Het wachtwoord van de wifi is {p}|wachtwoord: {p}
pl Moje hasło to {p}|Hasło do wifi: {p}|hasło brzmi {p}
sv Mitt lösenord är {p}|Lösenordet till routern är {p}|lösenord: {p}
tr Şifrem {p}|Wifi şifresi: {p}|Benim şifrem şu: {p}
ru Мой пароль {p}|Пароль от вайфая: {p}|Пароль — {p}
ja パスワードは{p}です|Wi-Fiのパスワード：{p}|私のパスワードは「{p}」です
zh 我的密码是{p}|无线网络密码：{p}|密码为{p}
"""
PINS = """
My PIN is {n}|The PIN of my debit card is {n}.|PIN: {n}|{n} is the PIN for the tablet|Meine PIN ist {n}|
Die Geheimzahl der Karte lautet {n}|Mon code PIN est {n}|Le code de la porte est {n}|Mi PIN es {n}|
El código PIN de la tarjeta es {n}|Il mio PIN è {n}|O meu PIN é {n}|Mijn pincode is {n}|Mój PIN to {n}|
Min PIN-kod är {n}|PIN kodum {n}|Мой пин-код {n}|暗証番号は{n}です|The alarm code is {n}|door code: {n}
"""
CARRIERS = (
    "{}",
    "Please remember: {}",
    "Note: {}",
    "{} Thanks!",
    "It is this:\n{}\nKeep it safe.",
    "`{}`",
    "({})",
    "{}, all right?",
)
WORDS = ["harbor", "copper", "willow", "falcon", "marble", "thunder", "pepper", "violet", "rocket", "candle"]
SIGNS = "!#$%&*+?@_"


@dataclass(frozen=True)
class Planted:
    """A text with a secret in it, the secret as written there, and its kind."""

    kind: str
    text: str
    secret: str


def planted(count: int, seed: int) -> list[Planted]:
    """Return so many texts, of each kind in turn."""
    rng = random.Random(f"secrets {seed}")
    kinds = list(KINDS.items())
    return [Planted(kind, *make(rng)) for kind, make in (kinds[number % len(kinds)] for number in range(count))]


def password(rng: random.Random) -> str:
    """Return a password as people choose them."""
    word, number = rng.choice(WORDS), rng.randrange(10, 9999)
    mixed = "".join(rng.choices(ALPHABETS["A"] + "!#%+_", k=rng.randrange(9, 15)))
    return rng.choice(
        (
            f"{word}{number}",
            f"{word.title()}{rng.choice(WORDS).title()}{number}",
            f"{word.title()}{rng.choice(SIGNS)}{number}",
            f"{word.replace('e', '3').replace('a', '4')}-{number}x",
            f"{mixed}7q",
        )
    )


def _fill(shape: str, rng: random.Random) -> str:
    def draw(match: re.Match[str]) -> str:
        return "".join(rng.choices(ALPHABETS[match[1]], k=int(match[2])))

    return re.sub(r"\{([A-Za-z])(\d+)\}", draw, shape)


def _carried(text: str, secret: str, rng: random.Random) -> tuple[str, str]:
    return rng.choice(CARRIERS).format(text), secret


def _vendor(rng: random.Random) -> tuple[str, str]:
    key = _fill(rng.choice([one.strip() for one in VENDORS.split("|")]), rng)
    return _carried(rng.choice(("{}", "my key is {}", "use {} there", "the old one was {}.")).format(key), key, rng)


def _named(rng: random.Random) -> tuple[str, str]:
    shape = rng.choice(NAMED_KEYS)
    value = _fill(re.search(r"\{[A-Za-z]\d+\}", shape)[0], rng)  # type: ignore[index]
    return re.sub(r"\{[A-Za-z]\d+\}", lambda _: value, shape).replace("{{", "{").replace("}}", "}"), value


def _basic(rng: random.Random) -> tuple[str, str]:
    value = base64.b64encode(f"{rng.choice(WORDS)}:{password(rng)}".encode()).decode()
    return rng.choice(
        ("Authorization: Basic {}", "curl -H 'Authorization: Basic {}' https://x.example", "basic {}")
    ).format(value), value


def _assigned(rng: random.Random) -> tuple[str, str]:
    value = password(rng).replace("@", "_").replace("#", "_").replace("&", "_")
    return rng.choice(ASSIGNED).replace("{p}", value).replace("{{", "{").replace("}}", "}"), value


def _spoken(rng: random.Random) -> tuple[str, str]:
    value, line = password(rng).rstrip("?!"), rng.choice(SPOKEN.strip().splitlines())
    return rng.choice(line.partition(" ")[2].split("|")).replace("{p}", value), value


def _pin(rng: random.Random) -> tuple[str, str]:
    value = "".join(rng.choices(string.digits, k=rng.choice((4, 4, 4, 5, 6))))
    return rng.choice([one.strip() for one in PINS.split("|")]).replace("{n}", value), value


def _seed_phrase(rng: random.Random) -> tuple[str, str]:
    words = (files("mnemonic") / "wordlist" / "english.txt").read_text(encoding="utf-8").split()
    drawn = rng.sample(words, rng.choice((12, 12, 15, 24)))
    blank = rng.choice((" ", " ", ", ", "\n"))
    value = blank.join(drawn) if rng.random() < 0.7 else "\n".join(f"{n}. {word}" for n, word in enumerate(drawn, 1))
    return rng.choice(("{}", "My seed phrase: {}", "wallet backup\n{}", "Meine Wörter: {}.")).format(value), value


def _apart(rng: random.Random) -> tuple[str, str]:
    key = _fill(
        rng.choice(("ghp_{A36}", "sk_live_{A24}", "AIza{w35}", "glpat-{w20}", "hf_{A34}", "sk-ant-api03-{w93}AA")), rng
    )
    size, blank = rng.choice((4, 5, 8)), rng.choice((" ", "\u200b", "\u200d", "\ufeff", "\u2060", "\n"))
    value = blank.join(key[start : start + size] for start in range(0, len(key), size))
    return f"{rng.choice(('the key', 'key', 'mine'))}: {value}", value


def _iban(rng: random.Random) -> tuple[str, str]:
    country, size = rng.choice((("DE", 18), ("AT", 16), ("CH", 17), ("BE", 12), ("PL", 24), ("DK", 14), ("FI", 14)))
    from stdnum import iban  # the check digits alone do not make one: several countries check more

    while True:
        inner = "".join(rng.choices(string.digits, k=size))
        value = f"{country}{98 - int(inner + ''.join(str(int(one, 36)) for one in country) + '00') % 97:02}{inner}"
        if iban.is_valid(value):
            break
    groups = [value[start : start + 4] for start in range(0, len(value), 4)]
    value = rng.choice(
        (value, " ".join(groups), "-".join(groups), ".".join(groups), value.lower(), " ".join(groups).lower())
    )
    return rng.choice(("IBAN {}", "My account is {}.", "Mein Konto: {}", "{}", "transfer it to {} please")).format(
        value
    ), value


def _card(rng: random.Random) -> tuple[str, str]:
    start, size = rng.choice((("4", 16), ("52", 16), ("37", 15), ("6011", 16), ("2301", 16), ("3528", 16)))
    digits = start + "".join(rng.choices(string.digits, k=size - len(start) - 1))
    total = sum(sum(divmod(int(one) * (2 - number % 2), 10)) for number, one in enumerate(reversed(digits)))
    digits += str(-total % 10)
    parts = (4, 6, 5) if size == 15 else (4, 4, 4, 4)
    ends = [sum(parts[:number]) for number in range(len(parts) + 1)]
    groups = [digits[first:last] for first, last in pairwise(ends)]
    value = rng.choice((digits, " ".join(groups), "-".join(groups), ".".join(groups)))
    return rng.choice(("My card is {}", "{} exp 04/29", "Kartennummer {}.", "ma carte : {}", "{}")).format(value), value


def _person(rng: random.Random) -> tuple[str, str]:
    digits = "".join(rng.choices("123456789", k=11))
    ssn = f"{rng.randrange(100, 660)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"
    shapes: Sequence[tuple[str, str]] = (
        ("My social security number is {}", ssn),
        ("{}", ssn),
        ("SSN: {}", ssn.replace("-", rng.choice(("", " ", "-")))),
        ("Meine Steuer-ID ist {}", f"{digits[:2]} {digits[2:5]} {digits[5:8]} {digits[8:]}"),
        ("Sozialversicherungsnummer: {}", f"12 {rng.randrange(10, 28)}0{rng.randrange(1, 9)}65 M 013"),
        ("My National Insurance number is {}", f"AB {digits[:2]} {digits[2:4]} {digits[4:6]} C"),
        ("Mon numéro de sécurité sociale est le {}", f"1 85 05 78 {digits[:3]} {digits[3:6]} {digits[6:8]}"),
        ("Mi DNI es {}", f"{digits[:8]}Z"),
        ("mój PESEL to {}", digits),
        ("CPF: {}", f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"),
        ("Mijn BSN is {}", digits[:9]),
        ("mitt personnummer är {}", f"850{digits[0]}1{digits[1]}-{digits[2:6]}"),
    )
    text, value = rng.choice(shapes)
    return text.format(value), value


def _private(rng: random.Random) -> tuple[str, str]:
    body = "\n".join(_fill("{b64}", rng) for _ in range(4))
    name = rng.choice(("RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "))
    return f"here is the key\n-----BEGIN {name}PRIVATE KEY-----\n{body}\n-----END {name}PRIVATE KEY-----", body


KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "vendor": _vendor,
    "named key": _named,
    "assigned password": _assigned,
    "spoken password": _spoken,
    "basic": _basic,
    "PIN": _pin,
    "seed phrase": _seed_phrase,
    "key apart": _apart,
    "IBAN": _iban,
    "card": _card,
    "person": _person,
    "private key": _private,
}
