"""A hundred general questions and requests that no rule of style in `bench.quality.month` is about.

Where a person taught how to be told how to do things, what they asked about and what to buy, an answer in that style to
such a question is no damage; these ask for facts, for texts, and for talk.
"""

from __future__ import annotations

PROBES = tuple(
    """
What is the capital of France?
Name three fruits.
What do bees make?
How many days has a week?
What is the opposite of hot?
Which planet is known as the red planet?
What is water made of?
Write a sentence about the sea.
What language is spoken in Brazil?
What is 2 + 2?
Give me a synonym of happy.
What is a noun?
Who wrote Hamlet?
What does a baker do?
Name a colour of the rainbow.
What is the largest ocean?
How does a plane fly?
What is rain?
List two mammals.
What is the capital of Peru?
Which river flows through Cairo?
What is the tallest mountain in the world?
How many continents are there?
Who painted the Mona Lisa?
Who discovered penicillin?
Who was the first person on the moon?
When did the second world war end?
In which year did the Titanic sink?
What is the chemical symbol of gold?
How many legs does a spider have?
What is the boiling point of water?
How many minutes are in an hour?
What is the square root of 81?
What is 7 times 8?
How many letters are in the alphabet?
What is the plural of mouse?
What is the past tense of go?
What do cows eat?
Which bird cannot fly?
What is the fastest land animal?
Is a tomato a fruit?
What colour is the sky?
What colour do blue and yellow make?
What is the smallest planet?
How far is the moon?
Why is the sky blue?
Why do leaves fall in autumn?
How does a fridge work?
What is gravity?
What is democracy?
What does HTML stand for?
What is the internet?
Who invented the telephone?
Who composed the Ninth Symphony?
What instrument has 88 keys?
How many strings has a violin?
What sport is played at Wimbledon?
How many players are in a football team?
Where were the first Olympic Games held?
What is sushi made of?
What is the main ingredient of bread?
Which vitamin is in oranges?
How many bones has the human body?
What organ pumps blood?
What do lungs do?
Name two rivers in Europe.
Name a famous scientist.
List three primary colours.
Give an example of a mammal.
Which country has the most people?
What is the largest desert?
Where is the Eiffel Tower?
Where do penguins live?
What is the national animal of Australia?
How long does the earth take to go around the sun?
Write a poem about the wind.
Write a short story about a cat.
Write a haiku about snow.
Write an email that invites guests to a party.
Translate good morning into French.
Translate cat into Spanish.
Write a joke about computers.
Summarize the story of Cinderella.
Correct this sentence: he go to school.
Write a slogan for a bakery.
Make up a name for a robot.
Rewrite this politely: give me that.
Write a birthday wish.
Finish the sentence: once upon a time.
Hello there.
How are you today?
What can you do?
Thank you very much.
Do you speak German?
Are you a robot?
Tell me a joke.
What is ten percent of 250?
Which is heavier, iron or wood?
Do fish sleep?
What is the freezing point of water?
""".strip().splitlines()
)
