"""Thirty everyday Burmese sentences with their English, written for this project and in no corpus."""

from llink.interfaces import Sample

SAMPLES = (
    # Greetings
    Sample("မင်္ဂလာပါ၊ နေကောင်းလား။", "Hello, how are you?"),
    Sample("ကျွန်တော် နေကောင်းပါတယ်။", "I am fine."),
    Sample("ကျေးဇူး အများကြီး တင်ပါတယ်။", "Thank you very much."),
    Sample("ကျွန်တော့်နာမည် အောင်အောင်ပါ။", "My name is Aung Aung."),
    # Home
    Sample("ကျွန်တော့်အိမ်က ဈေးနားမှာ ရှိတယ်။", "My house is near the market."),
    Sample("အမေ ဟင်းချက်နေတယ်။", "Mother is cooking."),
    Sample("ကျွန်တော့်အဖေက လယ်သမားပါ။", "My father is a farmer."),
    Sample("ခွေးက စားပွဲအောက်မှာ အိပ်နေတယ်။", "The dog is sleeping under the table."),
    # Food
    Sample("ကျွန်တော် ထမင်းစားရတာ ကြိုက်တယ်။", "I like to eat rice."),
    Sample("ရေသောက်ချင်လား။", "Do you want to drink water?"),
    Sample("ဒီအစားအစာက အရမ်းအရသာရှိတယ်။", "This food is very delicious."),
    Sample("ဒီသရက်သီးက အရမ်းချိုတယ်။", "This mango is very sweet."),
    # Travel
    Sample("ဈေးက ဘယ်မှာလဲ။", "Where is the market?"),
    Sample("ကျွန်တော် ရန်ကုန်ကို သွားချင်တယ်။", "I want to go to Yangon."),
    Sample("ကျွန်တော် မန္တလေးကို ဘတ်စ်ကားနဲ့ သွားတယ်။", "I go to Mandalay by bus."),
    Sample("ဒီလက်မှတ်က ဘယ်လောက်လဲ။", "How much is this ticket?"),
    # School
    Sample("ကျွန်တော် အင်္ဂလိပ်စာ သင်ရတာ ကြိုက်တယ်။", "I like learning English."),
    Sample("ကျောင်းသားက စာအုပ်ဖတ်နေတယ်။", "The student is reading a book."),
    Sample("ဆရာမက ကျောက်သင်ပုန်းပေါ်မှာ စာရေးတယ်။", "The teacher writes on the blackboard."),
    Sample("ကျွန်တော်တို့ ကျောင်းက အရမ်းကြီးတယ်။", "Our school is very big."),
    # Health
    Sample("ကျွန်တော် ခေါင်းကိုက်နေတယ်။", "I have a headache."),
    Sample("သူ ဆေးရုံကို သွားရမယ်။", "He has to go to the hospital."),
    Sample("မစားခင် လက်ဆေးပါ။", "Please wash your hands before eating."),
    # Numbers
    Sample("ကျွန်တော့်မှာ မောင်နှမ သုံးယောက် ရှိတယ်။", "I have three siblings."),
    Sample("တစ်ပတ်မှာ ခုနစ်ရက် ရှိတယ်။", "A week has seven days."),
    Sample("ဒီစာအုပ်က ၅၀၀၀ ကျပ်ပါ။", "This book is 5000 kyats."),
    Sample("အခု မနက် ၈ နာရီ ရှိပြီ။", "It is 8 o'clock in the morning now."),
    # Weather
    Sample("ဒီနေ့ အရမ်းပူတယ်။", "It is very hot today."),
    Sample("မနေ့ညက မိုးသည်းထန်စွာ ရွာတယ်။", "It rained heavily last night."),
    Sample("မနက်ဖြန် ကောင်းကင် ကြည်လင်မယ်။", "Tomorrow the sky will be clear."),
)
