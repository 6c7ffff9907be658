"""Word lists for the task generators: ordinary words to spell, and the pieces of sentences."""

WORDS = """strawberry banana committee mississippi letter balloon coffee parallel whale ocean kernel cluster gateway decode
prefill latent expert router tensor cache token reason answer little summer winter yellow purple bottle pepper cherry
tomato potato garden window mirror hammer rabbit turtle dolphin puzzle address success process access express bubble
butter carrot cotton dinner effect follow gallop happen hidden jogging kitten ladder manner narrow office pattern
quarrel ribbon sudden tunnel upper village wallet xylophone yesterday zeppelin apple bridge candle desert engine forest
guitar harbor island jacket kettle lemon market needle orange pencil quiet river silver ticket umbrella violin
water yogurt zebra anchor basket camera dragon eagle feather glacier hollow insect jungle kingdom lantern meadow
notebook opinion picture question raincoat sailor teacher uniform valley weather accommodation assessment bookkeeper
characteristic electricity engineering generation independent intelligence knowledge mathematics neighborhood
opportunity particular possession refrigerator responsibility television temperature tomorrow university vocabulary
raspberry blueberry pineapple watermelon cucumber mushroom dandelion butterfly grasshopper crocodile penguin seal coral
plankton current lagoon shrimp octopus seahorse hello world computer keyboard monitor printer network server memory""".split()

NAMES = """Tom Ann Ben Mia Leo Eva Sam Zoe Max Ida Paul Lena Omar Nina Kofi Aiko Ravi Sara Ivan Rosa Noah Emma Hugo Lucy Amir
Yuki Carl Dora Finn Gina""".split()

THINGS = """apples pens books coins stones cards eggs plums shells stamps marbles tickets cookies balls pears nuts cups hats
keys flowers buttons beads toys candles lemons oranges stickers pencils leaves fish""".split()

BOXES = "boxes bags baskets packs crates jars drawers shelves trays sacks".split()

# Ways to come to have more and to have less: with I, with a name, and in the past.
GAINS = [tuple(v.split("/")) for v in """buy/buys/bought|find/finds/found|get/gets/got|win/wins/won|collect/collects/collected|pick/picks/picked|
receive/receives/received|make/makes/made|add/adds/added|borrow/borrows/borrowed""".replace("\n", "").split("|")]
LOSSES = [tuple(v.split("/")) for v in """eat/eats/ate|lose/loses/lost|sell/sells/sold|give away/gives away/gave away|use/uses/used|drop/drops/dropped|
break/breaks/broke|throw away/throws away/threw away|spend/spends/spent|hide/hides/hid""".replace("\n", "").split("|")]

# What people ask of an assistant that this one cannot do. A request is a lead and an object.
REQUEST_LEADS = """Write a poem about|Write a story about|Tell me a joke about|Tell me a story about|Explain|Explain to me|What is the history of|
Who invented|Who discovered|What do you think about|What is the meaning of|Describe|Draw a picture of|Paint|Sing a song about|
Write an essay on|Summarize an article about|Give me advice about|What is the best|Recommend a book about|Recommend|Where can I buy|
How do I cook|How do I build|How do I repair|How does one make|Why do people like|Why is there|When was the first|What is the price of|
Translate into French:|Translate into German:|Translate to Spanish:|How do you say in Italian:|Write Python code for|Write a program about|
Write an email about|Write a letter to|Search the web for|Find pictures of|Open the file about|Call|Book a table for|Order|Play music about|
What is the weather in|Who is the president of|What is the capital of|What is the population of|Where is|How far away is|What time is it in|
Give me news about|Tell me about|What do you know about|Can you explain|Can you write about|Could you draw|Please describe|Please write about|
Do you like|Have you seen|What does it mean to love|Is it true that there is|Help me with|I need help with|Teach me about|Define|
What happened to|Compose a song about|Design|Plan a trip to|Plan a party with|Predict the future of|Who won the game of|What color is|Is it good to eat|
Should I buy|Should I learn|How old is|How tall is|How heavy is|How big is|Who wrote the book about|Who is|What is a|What is an|What are""".replace("\n", "").split("|")

REQUEST_OBJECTS = """the sea|Paris|France|the moon|love|quantum physics|my cat|a dog|the weather|football|Berlin|politics|the economy|a car|my computer|music|
history|the war|chess|the stars|climate change|a black hole|gravity|evolution|bread|soup|pizza|a house|a boat|an airplane|the internet|Tokyo|
London|Japan|Brazil|the desert|my friend|my boss|your family|winter|summer|a robot|machine learning|transformers|neural networks|Kubernetes|
a good movie|Shakespeare|the Romans|dinosaurs|whales|a dragon|a princess|money|stocks|bitcoin|health|a headache|sleep|yoga|running|
school|exams|biology|chemistry|philosophy|happiness|the universe|time travel|magic|art|Picasso|Mozart|jazz|rock music|dancing|gardening|
roses|trees|the rain forest|volcanoes|Mars|the sun|rockets|NASA|a phone|a laptop|shoes|a birthday cake|pasta|coffee|tea|wine|cheese|
the president|Einstein|Newton|a holiday|New York|China|India|Africa|the ocean|sharks|horses|birds|spiders|a garden|old castles|trains|bicycles|
a website|a database|JavaScript|Rust|the linux kernel|a compiler|cryptography|justice|freedom|religion|dreams|the human brain|memory|vaccines|cancer|
my homework|a job interview|a new hobby|tomorrow|yesterday|the year 1999|the future|life|death|friendship|my mother|a bridge|the city""".replace("\n", "").split("|")
