"""Ordinary replies from a seed: prose, dates, prices, numbers, addresses, recipes, code, and talk about passwords."""

from __future__ import annotations

import random
import string
import uuid
from datetime import datetime, timedelta

FIRST = (
    "Anna",
    "Ben",
    "Clara",
    "Deniz",
    "Elif",
    "Farid",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Kira",
    "Luis",
    "Mei",
    "Sven",
)
LAST = (
    "Berg",
    "Costa",
    "Dubois",
    "Ferrari",
    "Garcia",
    "Haas",
    "Ivanov",
    "Jansen",
    "Kowalski",
    "Meyer",
    "Silva",
    "Yilmaz",
)
TOWNS = (
    "Lisbon",
    "Oslo",
    "Kraków",
    "Lyon",
    "Utrecht",
    "Turin",
    "Seville",
    "Malmö",
    "İzmir",
    "Graz",
    "Bristol",
    "Kyoto",
)
THINGS = ("lamp", "kettle", "bicycle", "tent", "jacket", "keyboard", "router", "drill", "sofa", "printer", "blender")
FOODS = ("lentils", "tomatoes", "rice", "onions", "butter", "flour", "carrots", "basil", "noodles", "apples")
TALK = """
Your password manager can make a long one and remember it for you.
I forgot my password again; the reset link expires in {n} minutes.
The password is wrong, it says, so it is probably the caps lock.
A good password is at least {n} characters long and used nowhere else.
My password is too long for that form, which only takes {n} letters.
Password: required. User name: required.
Choose a password that nobody can guess, and never share it.
The token economy rewards people who stay; each token is worth {n} cents.
That model counts about {n}00 tokens for this text, the limit is {n}000 tokens.
Pin the note to the top of the board, please, and unpin the other {n}.
Connect pin {n} of the board to ground and pin 13 to the LED.
The key is patience: let the dough rest for {n} hours.
The secret is to salt the water before it boils.
Das Passwort ist abgelaufen, bitte vergib ein neues mit {n} Zeichen.
Mein Passwort ist viel zu einfach, sagt sie.
Le mot de passe est incorrect, il reste {n} essais.
La clave es la paciencia, y {n} minutos de horno.
La contraseña es demasiado corta: faltan {n} letras.
La password è scaduta da {n} giorni.
A senha é fraca e foi mudada há {n} dias.
Het wachtwoord is verlopen na {n} dagen.
Hasło jest za krótkie, brakuje {n} znaków.
Lösenordet är för kort.
Şifre yanlış, {n} deneme kaldı.
Пароль неверный, осталось {n} попытки.
パスワードは忘れました。
密码是错误的，还有{n}次机会。
Basic training starts on Monday and takes {n} weeks.
The bearer of this letter may enter until {n} o'clock.
Social security was introduced in 19{n}; the reform came {n} years later.
Two-factor authentication sends a code to your phone; never read it to anybody.
An API key belongs in the environment, not in the source code.
Is the passport valid for {n} more months? Renewal takes {n} days.
"""
CODE = """
def total(prices: list[float], rate: float = 0.{n}) -> float:\\n    return sum(prices) * (1 + rate)
password = getpass.getpass("Password: ")\\nclient.login(user, password)
api_key = os.environ["API_KEY"]\\nif not api_key:\\n    raise SystemExit("set API_KEY")
for token in tokenizer.encode(text)[:{n}]:\\n    print(token)
token = next(tokens)\\nif token == "(":\\n    depth += 1
SELECT name, count(*) FROM orders WHERE total > {n} GROUP BY name ORDER BY 2 DESC;
git checkout -b fix-{n}\\ngit commit -am "Handle an empty list"\\ngit push origin fix-{n}
The commit {hash} broke it; {short} is fine.
const [password, setPassword] = useState("");\\n<input type="password" value={{password}} />
{{"id": {n}, "name": "{first}", "tags": ["a", "b"], "uuid": "{uuid}"}}
services:\\n  web:\\n    image: nginx:1.{n}\\n    ports: ["80{n}:80"]
class PasswordField(Field):\\n    min_length = {n}
sudo apt-get install python3-venv\\npython3 -m venv .venv
curl -s https://example.org/api/v{n}/items?page={n} | jq '.items[0]'
if (user.pin.length !== 4) throw new Error("PIN must have 4 digits");
sha256sum: {hash}{short}  image.iso
export PATH=$HOME/bin:$PATH\\nexport DB_PASSWORD=<your password>
"""
PLAIN = """
{first} {last} comes at {time} on {date}, and brings {n} {food}.
The {thing} costs {price} euros, delivery on {date}.
Call {first} on {phone} before {time}, or write to {mail}.
Their address is {n} {last} Street, {town} {postcode}.
Flight {flight} leaves {town} at {time} and lands at {time}, gate B{n}.
The order number is {order}; the parcel is tracked as {tracking}.
ISBN {isbn} is the second edition, {n}0 pages long.
Mix {n}0 g of {food} with {n} ml of water and bake at 1{n} °C for {n} minutes.
{town} has about {people} inhabitants and lies {n}.{n} km from the sea.
Pi is 3.14159265358979, and e is 2.71828182845905.
The meeting {date}: 1. {first} reports; 2. budget of {price}; 3. {town}.
My sister {first} lives in {town} and works as a teacher since 20{n}.
Use the {thing} with the serial number {serial}; the manual is at https://www.example.org/{thing}/v{n}?lang=en.
{first} says the {food} need {n} more minutes. Shall I set a timer?
The invoice {invoice} of {date} over {price} EUR is paid.
It rained {n} mm in {town}; tomorrow {n} degrees, wind from the west.
The museum opens {time}–{time}, tickets are {price}, children under 1{n} free.
Version 1.{n}.{n} fixes issue #{order5} and needs Python 3.1{n}.
Room {n}0{n}, second floor. The wifi is called {town}-Guest, ask {first} for the rest.
The score was {n}:{n}, after {n} minutes it was 1:0.
"""


def ordinary_replies(count: int, seed: int) -> list[str]:
    """Return so many replies of one to four pieces, all of them different."""
    rng = random.Random(f"ordinary {seed}")
    pools = [[line for line in text.strip().splitlines()] for text in (PLAIN, TALK, CODE)]
    replies = dict[str, None]()
    while len(replies) < count:
        chosen = rng.choices(pools, weights=(6, 3, 1), k=rng.randrange(1, 5))
        replies[" ".join(_filled(rng.choice(pool), rng) for pool in chosen)] = None
    return list(replies)


def _filled(line: str, rng: random.Random) -> str:
    text = line.replace("\\n", "\n").replace("{{", "\0").replace("}}", "\1")
    for name in VALUES:
        while f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", VALUES[name](rng), 1)
    return text.replace("\0", "{").replace("\1", "}")


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _hex(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=count))


def _date(rng: random.Random) -> str:
    day = datetime(2015, 1, 1) + timedelta(days=rng.randrange(6000))
    return day.strftime(rng.choice(("%d.%m.%Y", "%Y-%m-%d", "%d/%m/%y", "%B %d, %Y", "%d %b %Y", "%Y%m%d")))


def _phone(rng: random.Random) -> str:
    shape = rng.choice(
        (
            "+49 30 {7}",
            "+1 415-{3}-{4}",
            "(212) {3}-{4}",
            "0171 {7}",
            "06 {2} {2} {2} {2}",
            "+48 {3} {3} {3}",
            "0{3} {6}",
        )
    )
    for size in "234567":
        while f"{{{size}}}" in shape:
            shape = shape.replace(f"{{{size}}}", _digits(rng, int(size)), 1)
    return shape


def _isbn(rng: random.Random) -> str:
    digits = "978" + _digits(rng, 9)
    digits += str(-sum(int(one) * (1, 3)[place % 2] for place, one in enumerate(digits)) % 10)
    return rng.choice((digits, f"{digits[:3]}-{digits[3]}-{digits[4:8]}-{digits[8:12]}-{digits[12]}"))


VALUES = {
    "first": lambda rng: rng.choice(FIRST),
    "last": lambda rng: rng.choice(LAST),
    "town": lambda rng: rng.choice(TOWNS),
    "thing": lambda rng: rng.choice(THINGS),
    "food": lambda rng: rng.choice(FOODS),
    "n": lambda rng: str(rng.randrange(2, 90)),
    "time": lambda rng: f"{rng.randrange(24)}:{rng.randrange(60):02}",
    "price": lambda rng: f"{rng.randrange(1, 2000)}.{rng.randrange(100):02}",
    "people": lambda rng: f"{rng.randrange(10, 900)},{rng.randrange(1000):03}",
    "date": _date,
    "phone": _phone,
    "mail": lambda rng: f"{rng.choice(FIRST).lower()}.{rng.choice(LAST).lower()}@example.org",
    "postcode": lambda rng: rng.choice((_digits(rng, 5), f"{_digits(rng, 4)} AB", "SW1A 2AA")),
    "flight": lambda rng: f"LH{_digits(rng, 4)}",
    "order": lambda rng: rng.choice((f"{_digits(rng, 3)}-{_digits(rng, 7)}-{_digits(rng, 7)}", _digits(rng, 10))),
    "order5": lambda rng: _digits(rng, 5),
    "tracking": lambda rng: rng.choice(
        (f"JJD0{_digits(rng, 16)}", f"1Z{_digits(rng, 3)}A{_digits(rng, 12)}", _digits(rng, 12))
    ),
    "serial": lambda rng: f"SN-{_digits(rng, 4)}-{_hex(rng, 6).upper()}",
    "invoice": lambda rng: f"INV-20{_digits(rng, 2)}-{_digits(rng, 5)}",
    "isbn": _isbn,
    "hash": lambda rng: _hex(rng, 40),
    "short": lambda rng: _hex(rng, 7),
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
}
