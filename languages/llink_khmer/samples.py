"""Thirty everyday Khmer sentences with their English, written for this project and in no corpus."""

from llink.interfaces import Sample

SAMPLES = (
    # Greetings
    Sample("សួស្តី តើអ្នកសុខសប្បាយទេ?", "Hello, how are you?"),
    Sample("ខ្ញុំសុខសប្បាយ។", "I am fine."),
    Sample("អរគុណច្រើន!", "Thank you very much!"),
    Sample("ខ្ញុំឈ្មោះសុខា។", "My name is Sokha."),
    # Home
    Sample("ផ្ទះរបស់ខ្ញុំនៅជិតផ្សារ។", "My house is near the market."),
    Sample("ម្តាយរបស់ខ្ញុំកំពុងធ្វើម្ហូប។", "My mother is cooking."),
    Sample("ឪពុករបស់ខ្ញុំជាកសិករ។", "My father is a farmer."),
    Sample("ឆ្កែដេកនៅក្រោមតុ។", "The dog is sleeping under the table."),
    # Food
    Sample("ខ្ញុំចូលចិត្តញ៉ាំបាយ។", "I like to eat rice."),
    Sample("តើអ្នកចង់ផឹកទឹកទេ?", "Do you want to drink water?"),
    Sample("ម្ហូបនេះឆ្ងាញ់ណាស់!", "This food is very delicious!"),
    Sample("ស្វាយនេះផ្អែមណាស់។", "This mango is very sweet."),
    # Travel
    Sample("តើផ្សារនៅឯណា?", "Where is the market?"),
    Sample("ខ្ញុំចង់ទៅភ្នំពេញ។", "I want to go to Phnom Penh."),
    Sample("ខ្ញុំទៅសៀមរាបដោយឡានក្រុង។", "I go to Siem Reap by bus."),
    Sample("តើសំបុត្រនេះថ្លៃប៉ុន្មាន?", "How much does this ticket cost?"),
    # School
    Sample("ខ្ញុំចូលចិត្តរៀនភាសាអង់គ្លេស។", "I like learning English."),
    Sample("សិស្សកំពុងអានសៀវភៅ។", "The student is reading a book."),
    Sample("គ្រូសរសេរនៅលើក្តារខៀន។", "The teacher writes on the blackboard."),
    Sample("សាលារៀនរបស់យើងធំណាស់។", "Our school is very big."),
    # Health
    Sample("ខ្ញុំឈឺក្បាល។", "I have a headache."),
    Sample("គាត់ត្រូវទៅមន្ទីរពេទ្យ។", "He has to go to the hospital."),
    Sample("សូមលាងដៃមុនពេលញ៉ាំបាយ។", "Please wash your hands before eating."),
    # Numbers
    Sample("ខ្ញុំមានបងប្អូនបីនាក់។", "I have three siblings."),
    Sample("មួយសប្តាហ៍មានប្រាំពីរថ្ងៃ។", "A week has seven days."),
    Sample("សៀវភៅនេះថ្លៃ ៥០០០ រៀល។", "This book costs 5000 riel."),
    Sample("ឥឡូវនេះម៉ោង ៨ ព្រឹក។", "It is 8 o'clock in the morning now."),
    # Weather
    Sample("ថ្ងៃនេះក្តៅណាស់។", "It is very hot today."),
    Sample("យប់មិញភ្លៀងធ្លាក់ខ្លាំង។", "It rained heavily last night."),
    Sample("ថ្ងៃស្អែកមេឃស្រឡះ។", "Tomorrow the sky will be clear."),
)
