"""Thirty everyday Amharic sentences with their English, written for this project and in no corpus."""

from llink.interfaces import Sample

SAMPLES = (
    # Greetings
    Sample("ሰላም፣ እንዴት ነህ?", "Hello, how are you?"),
    Sample("እኔ ደህና ነኝ።", "I am fine."),
    Sample("በጣም አመሰግናለሁ!", "Thank you very much!"),
    Sample("ስሜ አበበ ነው።", "My name is Abebe."),
    # Home
    Sample("ቤቴ ከገበያው አጠገብ ነው።", "My house is near the market."),
    Sample("እናቴ ምግብ እያበሰለች ነው።", "My mother is cooking."),
    Sample("አባቴ ገበሬ ነው።", "My father is a farmer."),
    Sample("ውሻው ጠረጴዛው ስር ተኝቷል።", "The dog is sleeping under the table."),
    # Food
    Sample("እንጀራ መብላት እወዳለሁ።", "I like to eat injera."),
    Sample("ውሃ መጠጣት ትፈልጋለህ?", "Do you want to drink water?"),
    Sample("ይህ ምግብ በጣም ጣፋጭ ነው!", "This food is very delicious!"),
    Sample("ጠዋት ቡና እንጠጣለን።", "We drink coffee in the morning."),
    # Travel
    Sample("ገበያው የት ነው?", "Where is the market?"),
    Sample("ወደ አዲስ አበባ መሄድ እፈልጋለሁ።", "I want to go to Addis Ababa."),
    Sample("ወደ ጎንደር በአውቶቡስ እሄዳለሁ።", "I go to Gondar by bus."),
    Sample("ይህ ቲኬት ስንት ነው?", "How much is this ticket?"),
    # School
    Sample("እንግሊዝኛ መማር እወዳለሁ።", "I like learning English."),
    Sample("ተማሪው መጽሐፍ እያነበበ ነው።", "The student is reading a book."),
    Sample("መምህሩ በሰሌዳው ላይ ይጽፋል።", "The teacher writes on the blackboard."),
    Sample("ትምህርት ቤታችን በጣም ትልቅ ነው።", "Our school is very big."),
    # Health
    Sample("ራሴን ያመኛል።", "I have a headache."),
    Sample("እሱ ወደ ሆስፒታል መሄድ አለበት።", "He has to go to the hospital."),
    Sample("እባክህ ከመብላትህ በፊት እጅህን ታጠብ።", "Please wash your hands before eating."),
    # Numbers
    Sample("ሦስት ወንድሞች አሉኝ።", "I have three brothers."),
    Sample("አንድ ሳምንት ሰባት ቀናት አሉት።", "A week has seven days."),
    Sample("ይህ መጽሐፍ ዋጋው 500 ብር ነው።", "This book costs 500 birr."),
    Sample("አሁን ሰዓቱ ስንት ነው?", "What time is it now?"),
    # Weather
    Sample("ዛሬ በጣም ሞቃት ነው።", "It is very hot today."),
    Sample("ትናንት ማታ ከባድ ዝናብ ዘነበ።", "It rained heavily last night."),
    Sample("ነገ ሰማዩ ጥርት ያለ ይሆናል።", "Tomorrow the sky will be clear."),
)
