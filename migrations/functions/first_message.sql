-- The beginning of the first human message in a state or input, as the title of its thread. NULL: it has none among its first
-- 20 messages.
CREATE OR REPLACE FUNCTION first_human_message(state jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    messages CONSTANT jsonb := CASE jsonb_typeof(state) WHEN 'object' THEN state -> 'messages' END;
    message jsonb;
    words text;
BEGIN
    IF messages IS NULL OR jsonb_typeof(messages) <> 'array' THEN
        RETURN NULL;
    END IF;
    FOR place IN 0 .. least(jsonb_array_length(messages), 20) - 1 LOOP
        message := messages -> place;
        CONTINUE WHEN jsonb_typeof(message) <> 'object'
                   OR coalesce(message ->> 'type', message ->> 'role', '') NOT IN ('human', 'user');
        words := CASE jsonb_typeof(message -> 'content')
                 WHEN 'string' THEN message ->> 'content'
                 WHEN 'array' THEN
                     jsonb_path_query_first(message -> 'content', '$[*] ? (@.type == "text").text') #>> '{}'
                 END;
        words := left(btrim(translate(left(words, 1000), E'\n\r\t', '   ')), 120);
        IF words <> '' THEN
            RETURN words;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- The same for a state as text. If jsonb can't store it, the thread has no title.
CREATE OR REPLACE FUNCTION first_human_message_of_text(state json) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF state IS NULL OR position('"messages"' IN state::text) = 0 THEN
        RETURN NULL;
    END IF;
    RETURN first_human_message(state::jsonb);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
