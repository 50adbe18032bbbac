Bnew_state_1_cJ 
a¾w–¢¾(*0¿á3¤¾ØØ¿UX>Xƒ†?u"©=